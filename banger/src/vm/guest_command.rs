//! A command that banger itself runs in the guest: the end of what it prints is kept.

use banger_agent::frame::{Frame, FrameError, MAX_DATA};
use banger_agent::protocol::exec::{Exec, Exit, FromCommand, STDERR, STDIN, STDIN_WINDOW, STDOUT, Started, ToCommand};
use banger_agent::protocol::{Request, now_ns};
use banger_vmm::Vm;

use crate::vm::agent::{AgentError, Call};

/// How much of the output is kept: its end, in bytes.
const KEPT: usize = 16 << 10;
/// How many lines of it an error shows.
const LINES: usize = 5;

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub exit: Exit,
    /// The end of what it printed, on both streams.
    pub output: Vec<u8>,
    /// Whether the guest's kernel killed a process meanwhile, for want of memory.
    pub out_of_memory: bool,
}

impl Finished {
    /// The last lines of what it printed.
    pub fn last_lines(&self) -> Vec<String> {
        let output = String::from_utf8_lossy(&self.output);
        let mut lines: Vec<_> = output.lines().rev().take(LINES).map(str::to_owned).collect();
        lines.reverse();
        lines
    }
}

/// Runs `exec` to its end, with `input` on its standard input. `each` is given what it prints, as
/// it comes.
///
/// # Errors
/// If it cannot be started, or the connection breaks.
pub fn run(vm: &Vm, exec: Exec, input: &[u8], mut each: impl FnMut(&[u8])) -> Result<Finished, AgentError> {
    let mut call = Call::open(vm, &Request::Exec(Exec { clock_ns: now_ns(), ..exec }))?;
    let _: Started = call.answer()?;
    call.wait_without_limit();
    let (mut sent, mut taken, mut closed) = (0, 0, false);
    let (mut output, mut out_of_memory) = (Vec::new(), false);
    loop {
        while sent < input.len() && sent - taken < STDIN_WINDOW {
            let end = input.len().min(sent + MAX_DATA.min(STDIN_WINDOW - (sent - taken)));
            call.send(Frame::Data(STDIN, input[sent..end].to_vec().into()))?;
            sent = end;
        }
        if sent == input.len() && !closed {
            call.say(&ToCommand::StdinClosed)?;
            closed = true;
        }
        match call.receive()?.ok_or(FrameError::Ended)? {
            Frame::Data(STDOUT | STDERR, chunk) => {
                each(&chunk);
                output.extend_from_slice(&chunk);
                output.drain(..output.len().saturating_sub(KEPT));
            }
            Frame::Data(..) => {}
            frame => match frame.message()? {
                FromCommand::StdinTaken { bytes } => taken = sent.min(taken.saturating_add(bytes)),
                FromCommand::Stopped => {}
                FromCommand::OutOfMemory => out_of_memory = true,
                FromCommand::Exited(exit) => return Ok(Finished { exit, output, out_of_memory }),
            },
        }
    }
}
