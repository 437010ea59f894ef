//! The user's terminal while a command has it.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use banger_agent::protocol::exec::Size;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;

/// Whether a person sits at both ends: only then a command gets a terminal.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The terminal's size; none where it has none.
pub(super) fn size() -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, which outlives the call.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Stops `who`, as kill(2) means it, this process being among them: as Ctrl-Z does, so where no
/// shell could continue it, nothing stops. Returns when it is continued.
pub(super) fn stop_job(who: Pid) -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process.
    let taken = unsafe { sigaction(Signal::SIGTSTP, &default) }?;
    let stopped = kill(who, Signal::SIGTSTP);
    // SAFETY: what was in place before is put back.
    unsafe { sigaction(Signal::SIGTSTP, &taken) }?;
    Ok(stopped?)
}

/// A terminal in raw mode: what is typed goes to the guest, whose own terminal interprets it.
/// Dropped, it is as it was.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(super) fn enter() -> io::Result<RawMode> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mode = RawMode { before };
        mode.resume()?;
        Ok(mode)
    }

    fn resume(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        cfmakeraw(&mut raw);
        Ok(tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &raw)?)
    }

    fn restore(&self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }

    /// Stops this process and its job, as Ctrl-Z does. Returns when the user's shell continues it.
    pub(super) fn suspend(&self) -> io::Result<()> {
        self.restore();
        stop_job(Pid::from_raw(0))?;
        self.resume()
    }

    /// Undoes what a full-screen program, cut off in the middle, has left on: the alternate screen,
    /// a hidden cursor, mouse reports and bracketed paste. See xterm's "Control Sequences".
    pub(super) fn leave_full_screen(&self) {
        const RESET: &[u8] = b"\x1b[?1049l\x1b[?25h\x1b[?1000;1002;1003;1006l\x1b[?2004l\x1b[0m\r\n";
        let mut out = io::stdout();
        let _ = out.write_all(RESET).and_then(|()| out.flush());
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.restore();
    }
}
