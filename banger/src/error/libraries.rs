//! Errors of the crates below banger's: what each is to the user.

use banger_agent::protocol::{AgentFailure, AgentFailureKind};

use super::{CommandError, ErrorKind, WHOLE_CONSOLE};

impl From<banger_vmm::Error> for CommandError {
    fn from(error: banger_vmm::Error) -> Self {
        use banger_vmm::Error;
        let kind = match &error {
            Error::Io { source, .. } => source.into(),
            Error::ProgramMissing { .. } => ErrorKind::MissingProgram,
            Error::NotFound(_) => ErrorKind::VmNotFound,
            Error::InvalidName(_) => ErrorKind::Usage,
            Error::Exists(_) => ErrorKind::VmExists,
            Error::Damaged { .. } => ErrorKind::StateDamaged,
            Error::Newer { .. } => ErrorKind::StateNewer,
            Error::Running(_) => ErrorKind::VmRunning,
            Error::NotRunning(_) => ErrorKind::VmNotRunning,
            Error::Busy(_) | Error::InUse(_) | Error::TooManyClients(_) => ErrorKind::VmBusy,
            Error::GoingDown(_) => ErrorKind::VmEnded,
            Error::NotStatic { .. } => ErrorKind::Installation,
            Error::Ports { .. } => ErrorKind::Port,
            Error::Boot { .. } | Error::Refused { .. } | Error::Supervisor { .. } => ErrorKind::VmFailed,
            _ => ErrorKind::Failed,
        };
        let logs = match &error {
            // A guest that has said nothing has no log.
            Error::Boot { name, .. } if !error.console_tail().is_empty() => Some(format!("{WHOLE_CONSOLE} {name}")),
            _ => None,
        };
        let hint = error.hint().unwrap_or_default();
        let hints = hint.lines().map(str::to_owned).chain(logs).collect();
        let mut details: Vec<_> = error.console_tail().to_vec();
        if !details.is_empty() {
            details.insert(0, "the end of the guest's console:".into());
        }
        CommandError { kind, hints, details, ..CommandError::new(error.to_string()) }
    }
}

impl From<banger_image::Error> for CommandError {
    fn from(error: banger_image::Error) -> Self {
        use banger_image::Error;
        let kind = match &error {
            Error::InvalidName { .. } | Error::Reference { .. } | Error::BadName { .. } | Error::KernelName { .. } => {
                ErrorKind::Usage
            }
            Error::Unknown { .. } | Error::NotInRegistry { .. } | Error::NotHere { .. } => ErrorKind::UnknownImage,
            Error::InUse { .. } => ErrorKind::ImageInUse,
            Error::KernelInUse { .. } => ErrorKind::KernelInUse,
            Error::Server { .. } | Error::Unauthorized { .. } | Error::WrongContent { .. } => ErrorKind::Registry,
            Error::Catalog { .. } => ErrorKind::Catalog,
            Error::Exists { .. } => ErrorKind::ImageExists,
            Error::MissingTool { .. } => ErrorKind::MissingProgram,
            Error::Damaged { .. } | Error::Incomplete { .. } => ErrorKind::StateDamaged,
            Error::Io(source)
            | Error::Input { source, .. }
            | Error::FileSystem(banger_image::ext4::Error::Image(source)) => source.into(),
            _ => ErrorKind::Image,
        };
        let hints = error.hint().into_iter().collect();
        // What a program of the host said comes below.
        let text = error.to_string();
        let mut lines = text.lines();
        let message = lines.next().unwrap_or_default().to_owned();
        let details = lines.map(|line| line.trim_start().to_owned()).collect();
        CommandError { kind, hints, details, ..CommandError::new(message) }
    }
}

impl From<AgentFailure> for CommandError {
    fn from(failure: AgentFailure) -> Self {
        let error = CommandError::new(failure.message);
        match failure.kind {
            AgentFailureKind::CommandNotFound => error.kind(ErrorKind::CommandNotFound),
            AgentFailureKind::NotExecutable => error.kind(ErrorKind::CommandNotExecutable),
            AgentFailureKind::NoSuchFolder => error.kind(ErrorKind::NoSuchFolder),
            AgentFailureKind::NoSuchUser => error.kind(ErrorKind::NoSuchUser),
            AgentFailureKind::NoSpace => error.kind(ErrorKind::GuestFull).in_vm("NAME"),
            AgentFailureKind::BadRequest => error
                .kind(ErrorKind::Guest)
                .hint("the VM may run the agent of another version of banger: banger restart"),
            AgentFailureKind::Changed => error.kind(ErrorKind::Guest).hint("run it again; nothing was overwritten"),
            AgentFailureKind::NoSuchFile | AgentFailureKind::TooLong | AgentFailureKind::Other => {
                error.kind(ErrorKind::Guest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multi_line_hints_are_split_and_full_disk_names_vm() {
        let failure = serde_json::json!({"message": "late", "hint": "a\nb"});
        let failure = serde_json::from_value(failure).unwrap();
        let error = CommandError::from(banger_vmm::Error::Refused { name: "box".into(), failure });
        assert_eq!(error.hints, ["a", "b"]);
        let full = CommandError::from(AgentFailure::new(AgentFailureKind::NoSpace, "full")).in_vm("box");
        assert!(full.hints[0].contains("banger vm exec box --") && full.hints[1].ends_with("banger restart box"));
    }

    #[test]
    fn tool_output_becomes_error_details() {
        let status = std::os::unix::process::ExitStatusExt::from_raw(1 << 8);
        let tail = vec!["E: 22.04 is not a release".to_owned(), "E: mmdebstrap failed to run".to_owned()];
        let error = banger_image::Error::ToolFailed {
            tool: "mmdebstrap",
            status,
            tail: tail.clone(),
            hint: Some("try".into()),
        };
        let error = CommandError::from(error);
        assert_eq!(error.message, "`mmdebstrap` failed (exit status: 1)");
        assert_eq!((error.details, error.hints), (tail, vec!["try".to_owned()]));
    }
}
