//! `banger fetch`.

use std::ffi::OsStr;
use std::path::Path;

use banger_agent::protocol::WireBytes;
use serde::Serialize;

use crate::config::{Overrides, Settings, git_host, helper_environment};
use crate::error::{CommandError, ErrorKind};
use crate::git::{Quarantine, RefChange, RefChangeKind, Remote, Workspace};
use crate::host::paths::{self, Paths};
use crate::host::scratch::ScratchDirectory;
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::output::table::table;
use crate::output::ui::Ui;
use crate::output::units::count;
use crate::remote;
use crate::vm::machine::{Machines, VmSpec};

/// How many digits of an object's name a text has.
const DIGITS: usize = 12;

/// What a fetch has brought, or would bring.
#[derive(Clone, Debug, Serialize)]
pub struct FetchReport {
    /// The VM's name.
    pub vm: String,
    /// The repository's directory in the guest.
    pub guest_path: WireBytes,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The refs that changed, sorted by name; those that were deleted come last.
    pub refs: Vec<RefChange>,
    /// Names of branches and tags of the VM that a ref here cannot have.
    pub skipped: Vec<WireBytes>,
}

/// Fetches what was committed in the VM named `name`, or without a name in the VM of the workspace
/// around `here`, into that workspace's repository. The VM is started if it does not run.
///
/// # Errors
/// If `here` is in no workspace, there is no such VM, or it does not start; if git cannot fetch, or
/// refuses what the VM sends. Nothing was changed then.
pub fn fetch(
    name: Option<&str>,
    dry_run: bool,
    here: &Path,
    paths: &Paths,
    ui: &Ui,
) -> Result<FetchReport, CommandError> {
    let workspace = Workspace::discover(here, git_host(paths))?;
    let machines = Machines::new(paths, ui);
    let vm = super::existing(name, here, paths, &machines)?;
    let folder = helper_folder()?;
    let environment = helper_environment(&folder)
        .map_err(|error| CommandError::new(format!("cannot run `{}`: {error}", remote::PROGRAM)))?;
    let time = Settings::of_process(paths, None, &Overrides::default())?.fetch_timeout();
    let guest_path = remote::guest_repository(&vm, &workspace.root)?;
    // In use until this is done.
    let _machine = machines.start_found(&vm, &VmSpec::default())?;
    let scratch = paths.cache.join("fetch");
    let scratch = ScratchDirectory::create(&scratch).map_err(|error| CommandError::io("make", &scratch, &error))?;
    let quarantine = Quarantine::create(&workspace.repository, scratch.path())?;
    let url = remote::url(vm.name());
    let remote = Remote { url: &url, scheme: remote::SCHEME, environment: &environment, time };
    let incoming = quarantine.receive(&remote, vm.name())?;
    if !dry_run {
        quarantine.adopt(&incoming)?;
    }
    Ok(FetchReport {
        vm: vm.name().to_owned(),
        guest_path: guest_path.as_os_str().into(),
        dry_run,
        refs: incoming.changes,
        skipped: incoming.skipped.into_iter().map(WireBytes).collect(),
    })
}

/// The directory of the remote helper, which is beside this program.
fn helper_folder() -> Result<std::path::PathBuf, CommandError> {
    let program = paths::program()?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    if folder.join(remote::PROGRAM).is_file() {
        return Ok(folder.to_owned());
    }
    let message = format!("banger is not installed whole: `{}` is not in {}", remote::PROGRAM, folder.display());
    Err(CommandError::new(message).kind(ErrorKind::Installation).hint("install it with: make install PREFIX=…"))
}

impl CommandOutput for FetchReport {
    fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        if let Some(first) = self.skipped.first() {
            let what = count(self.skipped.len() as u64, "branch or tag", "branches and tags");
            let first = banger_vmm::printable(&first.0);
            messages.push(Message::warning(format!("{what} stayed in the VM, for their names, such as `{first}`")));
        }
        let what = count(self.refs.len() as u64, "branch or tag", "branches and tags");
        messages.push(Message::status(match (self.refs.len(), self.dry_run) {
            (0, _) => format!("nothing new in `{}`", self.vm),
            (_, true) => format!("{what} would change here"),
            (_, false) => format!("fetched {what} from `{}`", self.vm),
        }));
        messages
    }

    fn text(&self, verbosity: Verbosity) -> String {
        if verbosity.quiet {
            return self.refs.iter().map(|change| format!("{}\n", shown(&change.name))).collect();
        }
        if self.refs.is_empty() {
            return String::new();
        }
        let short = |id: &Option<String>| id.as_deref().unwrap_or_default().chars().take(DIGITS).collect::<String>();
        table(
            ["REF", "CHANGE", "OBJECTS"],
            self.refs.iter().map(|change| {
                let kind = match change.change {
                    RefChangeKind::New => "new",
                    RefChangeKind::Updated => "updated",
                    RefChangeKind::Forced => "forced",
                    RefChangeKind::Deleted => "deleted",
                };
                let objects = format!("{}..{}", short(&change.old), short(&change.new));
                [shown(&change.name), kind.to_owned(), objects]
            }),
        )
    }
}

fn shown(name: &str) -> String {
    banger_vmm::printable(OsStr::new(name).as_encoded_bytes())
}
