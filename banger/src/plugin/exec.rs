//! Becoming a plugin.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::execve;

use super::{Environment, FoundPlugin, Problem};
use crate::cli::Global;
use crate::error::{CommandError, ErrorKind};

/// Runs the plugin in the place of this process.
///
/// # Errors
/// Returns only with the reason why that cannot be.
pub fn exec(
    plugin: &FoundPlugin,
    options: &Global,
    arguments: Vec<OsString>,
    environment: &Environment,
) -> Result<Infallible, CommandError> {
    if options.json {
        let error = CommandError::new("`--json` before a plugin's name says nothing to the plugin");
        return Err(error.kind(ErrorKind::Usage).hint("if the plugin knows it, put it after the name"));
    }
    let path = plugin.path.display();
    if let Some(problem) = plugin.problem {
        let error = cannot_run(plugin, problem.describe());
        return Err(match problem {
            Problem::Dangling => error.kind(ErrorKind::PluginNotFound),
            Problem::NoFile => error,
            Problem::NotExecutable => error.hint(format!("if you trust it: chmod +x {path}")),
        });
    }
    let program = plugin.path.clone().into_os_string();
    let words: Vec<_> = [program.clone()].into_iter().chain(arguments).map(c_string).collect();
    let mut variables: Vec<_> = std::env::vars_os().collect();
    for (name, value) in environment.changes(options) {
        variables.retain(|(old, _)| old != name);
        variables.extend(value.map(|value| (name.into(), value)));
    }
    let variables: Vec<_> = variables
        .into_iter()
        .map(|(mut variable, value)| {
            variable.push("=");
            variable.push(value);
            c_string(variable)
        })
        .collect();
    // Rust's start-up has this signal ignored, which a program inherits.
    // SAFETY: the default action runs no code of this process.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    // Not `execvp`: that gives a file of any content to a shell.
    match execve(&c_string(program), &words, &variables) {
        Err(Errno::ENOENT) if !plugin.path.exists() => {
            Err(cannot_run(plugin, "it is gone").kind(ErrorKind::PluginNotFound))
        }
        Err(Errno::ENOENT) => Err(cannot_run(plugin, "its interpreter does not exist")
            .hint(format!("see what its first line names: head -n 1 {path}"))),
        Err(Errno::ENOEXEC) => Err(cannot_run(plugin, "it is no program of this machine's kind")
            .hint("a script says in its first line what runs it: #!/bin/sh")),
        Err(error) => Err(cannot_run(plugin, error.desc())),
    }
}

fn cannot_run(plugin: &FoundPlugin, reason: &str) -> CommandError {
    let message = format!("the plugin `{}` cannot be run: {reason}", plugin.path.display());
    CommandError::new(message).kind(ErrorKind::PluginNotExecutable)
}

fn c_string(text: OsString) -> CString {
    CString::new(text.into_vec()).expect("what the system gave has no NUL")
}
