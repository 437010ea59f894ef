//! What becomes of a defect of banger itself: it is said how to report it, and the exit status is
//! banger's own.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{Write, stderr};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::process::ExitCode;

use banger_vmm::printable;

use crate::error::FAILED;

/// Runs `main`, the whole of a program. Should it panic, the exit status is [`FAILED`]: what Rust
/// has for that, 101, may be taken for that of the command in the VM.
pub fn guard(main: impl FnOnce() -> ExitCode) -> ExitCode {
    set_hook(Box::new(|info| {
        let backtrace = Backtrace::capture();
        let mut text = report(info);
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("{backtrace}\n"));
        }
        // Nobody may be there to read it.
        let _ = stderr().write_all(text.as_bytes());
    }));
    catch_unwind(AssertUnwindSafe(main)).unwrap_or(ExitCode::from(FAILED))
}

fn report(info: &PanicHookInfo<'_>) -> String {
    let message = printable(info.payload_as_str().unwrap_or("unknown").as_bytes());
    let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "banger: internal error: {message}{place}\n\
         hint: this is a defect of banger {version}: please report it, with what you ran and these lines; \
         RUST_BACKTRACE=1 shows more\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_exits_with_internal_error_status() {
        let before = std::panic::take_hook();
        let status = guard(|| panic!("\u{1b}[31m for the test"));
        let other = guard(|| ExitCode::from(7));
        set_hook(before);
        assert_eq!(format!("{status:?}"), format!("{:?}", ExitCode::from(125)));
        assert_eq!(format!("{other:?}"), format!("{:?}", ExitCode::from(7)));
    }
}
