//! The variables that a plugin finds.

use std::ffi::OsString;
use std::path::PathBuf;

use super::API;
use crate::cli::{Color, Global};
use crate::error::{CommandError, ErrorKind};
use crate::host::paths::program;
use crate::output::ui::{COLOR, NO_INPUT, QUIET, VERBOSE};

/// How many plugins deep this process is.
const DEPTH: &str = "BANGER_PLUGIN_DEPTH";
/// How deep plugins may run each other.
const MAX_DEPTH: u32 = 16;

/// What a plugin is told.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The absolute path of the `banger` that runs it.
    pub banger: PathBuf,
    /// The workspace that it is run in.
    pub workspace: Option<PathBuf>,
    depth: u32,
}

impl Environment {
    /// For the plugins that this process runs.
    ///
    /// # Errors
    /// If it was itself run by a plugin, that by another, and so on, for too long.
    pub fn new(banger: PathBuf, workspace: Option<PathBuf>) -> Result<Environment, CommandError> {
        let depth = std::env::var(DEPTH).ok().and_then(|depth| depth.parse().ok()).unwrap_or(0);
        if depth >= MAX_DEPTH {
            let message = format!("plugins run each other without end: this would be the {}th in a row", MAX_DEPTH + 1);
            let hint = "a plugin that runs `$BANGER` with its own name runs itself";
            return Err(CommandError::new(message).kind(ErrorKind::PluginLoop).hint(hint));
        }
        Ok(Environment { banger, workspace, depth: depth + 1 })
    }

    /// The variables that are set, or taken away; others are as they were. `options` are those
    /// before the plugin's name: they go for what it runs too.
    pub fn changes(&self, options: &Global) -> Vec<(&'static str, Option<OsString>)> {
        let text = |value: &str| Some(OsString::from(value));
        let mut changes = vec![
            ("BANGER", Some(self.banger.clone().into())),
            ("BANGER_VERSION", text(banger_agent::VERSION)),
            ("BANGER_PLUGIN_API", text(&API.to_string())),
            (DEPTH, text(&self.depth.to_string())),
            ("BANGER_WORKSPACE_ROOT", self.workspace.clone().map(OsString::from)),
        ];
        match options.color {
            Color::Auto => {}
            Color::Always => changes.extend([(COLOR, text("always")), ("NO_COLOR", None)]),
            Color::Never => changes.extend([(COLOR, text("never")), ("NO_COLOR", text("1"))]),
        }
        if options.quiet || options.verbose {
            let flag = |is_set: bool| is_set.then(|| OsString::from("1"));
            changes.extend([(QUIET, flag(options.quiet)), (VERBOSE, flag(options.verbose))]);
        }
        if options.no_input {
            changes.push((NO_INPUT, text("1")));
        }
        changes
    }
}

/// The `banger` that has called this plugin, or that is beside it.
///
/// # Errors
/// If the system does not tell where this program is, which needs /proc.
pub fn banger() -> Result<PathBuf, CommandError> {
    match std::env::var_os("BANGER") {
        Some(path) => Ok(path.into()),
        None => Ok(program()?.with_file_name("banger")),
    }
}
