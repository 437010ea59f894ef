//! Running a command.
//!
//! After the request the host sends data on [`STDIN`] and [`ToCommand`] control frames; the agent
//! answers with `AgentReply<Started>`, then sends data on [`STDOUT`] and [`STDERR`] and
//! [`FromCommand`] control frames, [`FromCommand::Exited`] being the last. If the stream ends
//! before that, the agent hangs the command up.

use serde::{Deserialize, Serialize};

use super::WireBytes;

/// Data channel from the host: standard input, or what is typed.
pub const STDIN: u8 = 1;
/// Data channel from the agent: standard output, or what the terminal shows.
pub const STDOUT: u8 = 1;
/// Data channel from the agent: standard error.
pub const STDERR: u8 = 2;

/// How many bytes of standard input the host may have sent that the agent has not yet reported as
/// taken. It keeps the stream open for signals while the command does not read.
pub const STDIN_WINDOW: usize = 1 << 20;

/// The `PATH` of a command that is given none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to run, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Exec {
    /// The command and its arguments. Empty: the user's login shell.
    pub argv: Vec<WireBytes>,
    /// Whether `argv` is one line, for the user's shell to run.
    #[serde(default)]
    pub shell: bool,
    /// Variables on top of the guest's own; a later one of the same name wins.
    pub env: Vec<(WireBytes, WireBytes)>,
    /// The folder to run in, absolute. Empty: the user's home, or the root folder where that does
    /// not exist.
    pub cwd: WireBytes,
    /// Whether `cwd` is made if it is missing: a directory that is empty or ignored on the host
    /// does not travel.
    pub make_cwd: bool,
    /// The user to run as: `name`, `uid`, or either with `:group`; none: root.
    pub user: Option<String>,
    /// The size of the command's terminal; none: the command gets three pipes instead.
    pub tty: Option<Size>,
    /// The host's clock when it asks, as [`now_ns`](super::now_ns) has it; 0: not told.
    #[serde(default)]
    pub clock_ns: i64,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// The answer to [`Exec`]: the command runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The command's process id in the guest.
    pub pid: i32,
}

/// Control frames to a running command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToCommand {
    /// Standard input has ended.
    StdinClosed,
    /// The host's terminal has another size now.
    Resize(Size),
    /// A signal for the command's process group. INT, TERM and HUP also start the clock after which
    /// all it started is killed.
    Signal {
        /// Its number on Linux.
        signal: i32,
    },
}

/// Control frames from a running command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromCommand {
    /// The command's standard input took this many bytes.
    StdinTaken {
        /// How many since the last such frame.
        bytes: usize,
    },
    /// The command was stopped at its terminal (Ctrl-Z), and waits for SIGCONT.
    Stopped,
    /// The guest's kernel killed a process for want of memory while the command ran. Sent before
    /// the end of a command that failed.
    OutOfMemory,
    /// The command ended.
    Exited(Exit),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this status.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl Exit {
    /// The status that a shell would report: 128 + n for a signal.
    pub fn status(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}
