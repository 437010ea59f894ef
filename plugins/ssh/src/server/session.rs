//! A session: a command in the guest, with a channel for its standard streams.

use std::mem::discriminant;
use std::pin::pin;
use std::sync::Arc;

use banger::banger_agent::protocol::WireBytes;
use banger::banger_agent::protocol::exec::{Exit, Size};
use banger::banger_vmm::printable;
use banger::error::{CommandError, FAILED};
use banger::host::terminfo;
use banger::vm::agent::AgentError;
use banger::vm::guest_command::{CommandEvent, GuestCommand, GuestCommandInput, GuestCommandOutput};
use nix::libc;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::sync::mpsc;

use super::backlog::Backlog;
use super::guest::Guest;

/// The kind of data that is standard error: RFC 4254, 5.2.
const EXTENDED_STDERR: u32 = 1;
/// The exit status of ssh for its own failures, and of this server for failures that are not a
/// command's.
const FAILED_CONNECTION: u32 = 255;

/// The signals that have a name in RFC 4254, 6.10.
const SIGNALS: [(Sig, i32); 12] = [
    (Sig::ABRT, libc::SIGABRT),
    (Sig::ALRM, libc::SIGALRM),
    (Sig::FPE, libc::SIGFPE),
    (Sig::HUP, libc::SIGHUP),
    (Sig::ILL, libc::SIGILL),
    (Sig::INT, libc::SIGINT),
    (Sig::KILL, libc::SIGKILL),
    (Sig::PIPE, libc::SIGPIPE),
    (Sig::QUIT, libc::SIGQUIT),
    (Sig::SEGV, libc::SIGSEGV),
    (Sig::TERM, libc::SIGTERM),
    (Sig::USR1, libc::SIGUSR1),
];

/// What a client sends to a command besides its standard input.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    /// The client's terminal has a new size.
    Resize(Size),
    /// A signal for the command, by its number on Linux.
    Signal(i32),
}

/// The number on Linux of a signal of RFC 4254; `None` for an unknown name.
pub(super) fn number(signal: &Sig) -> Option<i32> {
    match signal {
        Sig::Custom(name) if name == "USR2" => Some(libc::SIGUSR2),
        signal => {
            SIGNALS.iter().find(|(known, _)| discriminant(known) == discriminant(signal)).map(|(_, number)| *number)
        }
    }
}

/// Installs in the guest the terminfo entry for `TERM` in `env`, the variables of a session, if the
/// host has it, and adds the variables for it to `env`. Failures are ignored: a session works
/// without.
pub(super) async fn bring_terminal(guest: &Guest, env: &mut Vec<(WireBytes, WireBytes)>) {
    let Some(request) = terminfo::request(env, |name| std::env::var_os(name)) else { return };
    if let Ok((true, ..)) = guest.open::<bool>(&request).await {
        env.extend(terminfo::variables(env));
    }
}

/// Serves the command that `start` starts until it exits, and closes the channel. `controls` are
/// sent to the command besides what comes on the channel.
pub(super) async fn run(
    channel: Channel<Msg>,
    start: impl Future<Output = Result<GuestCommand, CommandError>>,
    handle: Handle,
    controls: mpsc::Receiver<Control>,
) {
    let id = channel.id();
    let (incoming, outgoing) = channel.split();
    let mut incoming = Backlog::new(incoming);
    let exit = async { converse(&mut incoming, &outgoing, start.await?, controls).await };
    // What cannot be sent has no client any more.
    let _ = match exit.await {
        Ok(Some(Exit::Code(code))) => handle.exit_status_request(id, code.into()).await,
        Ok(Some(Exit::Signal(number))) => match SIGNALS.into_iter().find(|(_, known)| *known == i32::from(number)) {
            Some((signal, _)) => handle.exit_signal_request(id, signal, false, String::new(), String::new()).await,
            None => handle.exit_status_request(id, Exit::Signal(number).status().into()).await,
        },
        // The client does not want to hear of it.
        Ok(None) => Ok(()),
        Err(error) => {
            let _ = outgoing.extended_data_bytes(EXTENDED_STDERR, message(&error)).await;
            let status = if error.status() == FAILED { FAILED_CONNECTION } else { error.status().into() };
            handle.exit_status_request(id, status).await
        }
    };
    let _ = handle.eof(id).await;
    let _ = handle.close(id).await;
}

/// The text of an error for a terminal that may be in raw mode.
fn message(error: &CommandError) -> String {
    let details = error.details.iter().map(|line| format!("  {line}"));
    let hints = error.hints.iter().map(|line| format!("  hint: {line}"));
    let lines = [format!("banger: error: {}", error.message)].into_iter().chain(details).chain(hints);
    lines.map(|line| printable(line.as_bytes()) + "\r\n").collect()
}

/// None: the client has closed the channel.
async fn converse(
    incoming: &mut Backlog,
    outgoing: &ChannelWriteHalf<Msg>,
    command: GuestCommand,
    mut controls: mpsc::Receiver<Control>,
) -> Result<Option<Exit>, CommandError> {
    let GuestCommand { mut input, mut output } = command;
    // What the command has stopped for is nothing that ssh could tell the shell it was started
    // from.
    let (go_on, stopped) = mpsc::channel(1);
    let mut feeding = pin!(feed(incoming, &mut controls, stopped, &mut input));
    let mut reading = pin!(read(outgoing, &mut output, go_on));
    tokio::select! {
        exit = &mut reading => Ok(exit.map(Some)?),
        fed = &mut feeding => match fed {
            Ok(()) => Ok(None),
            // What was said before the connection broke is still to be read, and why it did.
            Err(_) => Ok(reading.await.map(Some)?),
        },
    }
}

/// Sends what the client says to the command. Only the order of standard input is kept. Ends when
/// the client has closed the channel.
async fn feed(
    incoming: &mut Backlog,
    controls: &mut mpsc::Receiver<Control>,
    mut stopped: mpsc::Receiver<()>,
    input: &mut GuestCommandInput,
) -> Result<(), AgentError> {
    loop {
        tokio::select! {
            biased;
            Some(control) = controls.recv(), if input.is_flushed() => match control {
                Control::Resize(size) => input.resize(size),
                Control::Signal(signal) => input.signal(signal),
            },
            Some(()) = stopped.recv(), if input.is_flushed() => input.signal(libc::SIGCONT),
            sent = input.send(), if !input.is_sent() => sent?,
            message = incoming.next(), if input.is_sent() => match message {
                Some(ChannelMsg::Data { data }) => input.queue_stdin(data),
                Some(ChannelMsg::Eof) => input.close_stdin(),
                Some(ChannelMsg::Close) | None => return Ok(()),
                Some(_) => {}
            },
        }
    }
}

/// Sends what the command says, to its end.
async fn read(
    outgoing: &ChannelWriteHalf<Msg>,
    output: &mut GuestCommandOutput,
    go_on: mpsc::Sender<()>,
) -> Result<Exit, AgentError> {
    loop {
        match output.next().await? {
            // A client that is gone is for the other direction to find out.
            CommandEvent::Stdout(chunk) => _ = outgoing.data_bytes(chunk).await,
            CommandEvent::Stderr(chunk) => _ = outgoing.extended_data_bytes(EXTENDED_STDERR, chunk).await,
            CommandEvent::Stopped => _ = go_on.try_send(()),
            // The client shows what the command said, and nothing else.
            CommandEvent::OutOfMemory => {}
            CommandEvent::Exited(exit) => return Ok(exit),
        }
    }
}

/// Variables that sshd(8) sets and shells look for. The connection is no socket and has no
/// addresses, so they have placeholders.
pub(super) fn variables() -> Vec<(WireBytes, WireBytes)> {
    let unknown = "UNKNOWN 65535";
    vec![
        ("SSH_CLIENT".into(), format!("{unknown} 65535").into()),
        ("SSH_CONNECTION".into(), format!("{unknown} {unknown}").into()),
    ]
}

/// The variable with the socket of the forwarded SSH agent.
pub(super) fn agent_variable(socket: &Arc<WireBytes>) -> (WireBytes, WireBytes) {
    ("SSH_AUTH_SOCK".into(), WireBytes::clone(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_signal_names_map_to_numbers() {
        assert_eq!(number(&Sig::TERM), Some(15));
        assert_eq!(number(&Sig::Custom("USR2".into())), Some(12));
        assert_eq!(number(&Sig::Custom("INFO".into())), None);
    }

    #[test]
    fn error_message_escapes_guest_text() {
        let error = CommandError::new("no `\u{1b}[31m`").hint("look");
        assert_eq!(message(&error), "banger: error: no `^[[31m`\r\n  hint: look\r\n");
    }
}
