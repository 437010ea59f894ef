//! A session: a command in the guest, with a channel for its standard streams.

use std::mem::discriminant;
use std::pin::pin;
use std::sync::Arc;

use banger::banger_agent::frame::{Frame, FrameError};
use banger::banger_agent::protocol::exec::{
    Exit, FromCommand, STDERR, STDIN, STDIN_WINDOW, STDOUT, Started, ToCommand,
};
use banger::banger_agent::protocol::{Bytes, Request};
use banger::banger_vmm::printable;
use banger::error::{CommandError, FAILED};
use banger::host::terminfo;
use banger::vm::agent::AgentError;
use futures::{SinkExt, StreamExt};
use nix::libc;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::sync::{Semaphore, mpsc};

use super::backlog::Backlog;
use super::guest::{Guest, Reader, Writer};

/// The kind of data that is standard error: RFC 4254, 5.2.
const EXTENDED_STDERR: u32 = 1;
/// What ssh has for failures of its own, and this server for those that are no command's.
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

/// A signal's number on Linux; none: it has no such name.
pub(super) fn number(signal: &Sig) -> Option<i32> {
    match signal {
        Sig::Custom(name) if name == "USR2" => Some(libc::SIGUSR2),
        signal => {
            SIGNALS.iter().find(|(known, _)| discriminant(known) == discriminant(signal)).map(|(_, number)| *number)
        }
    }
}

/// Lets the guest know the terminal of a session whose variables are `env`, if this machine does. A
/// session can do without.
pub(super) async fn bring_terminal(guest: &Guest, env: &mut Vec<(Bytes, Bytes)>) {
    let Some(request) = terminfo::request(env, |name| std::env::var_os(name)) else { return };
    if let Ok((true, ..)) = guest.open::<bool>(&request).await {
        env.extend(terminfo::variables(env));
    }
}

/// Runs what `request` says to its end, and closes the channel. `controls` are for the command,
/// besides what the channel brings.
pub(super) async fn run(
    channel: Channel<Msg>,
    request: impl Future<Output = Result<Request, CommandError>>,
    guest: Guest,
    handle: Handle,
    controls: mpsc::Receiver<ToCommand>,
) {
    let id = channel.id();
    let (incoming, outgoing) = channel.split();
    let mut incoming = Backlog::new(incoming);
    let exit = async { converse(&mut incoming, &outgoing, &request.await?, &guest, controls).await };
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

/// An error for a terminal that may be a raw one.
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
    request: &Request,
    guest: &Guest,
    mut controls: mpsc::Receiver<ToCommand>,
) -> Result<Option<Exit>, CommandError> {
    let (_, mut reader, mut writer): (Started, _, _) = guest.open(request).await?;
    let window = Semaphore::new(STDIN_WINDOW);
    // What the command has stopped for is nothing that ssh could tell the shell it was started
    // from.
    let (go_on, stopped) = mpsc::channel(1);
    let mut feeding = pin!(feed(incoming, &mut controls, stopped, &window, &mut writer));
    let mut reading = pin!(read(outgoing, &mut reader, &window, go_on));
    tokio::select! {
        exit = &mut reading => Ok(exit.map(Some)?),
        fed = &mut feeding => match fed {
            Ok(()) => Ok(None),
            // What was said before the connection broke is still to be read, and why it did.
            Err(_) => Ok(reading.await.map(Some)?),
        },
    }
}

/// Sends what the client says, in no order but standard input's own. Ends when the client has
/// closed the channel.
async fn feed(
    incoming: &mut Backlog,
    controls: &mut mpsc::Receiver<ToCommand>,
    mut stopped: mpsc::Receiver<()>,
    window: &Semaphore,
    writer: &mut Writer,
) -> Result<(), FrameError> {
    let mut waiting: Option<bytes::Bytes> = None;
    loop {
        let frame = tokio::select! {
            biased;
            Some(control) = controls.recv() => Frame::control(&control),
            Some(()) = stopped.recv() => Frame::control(&ToCommand::Signal { signal: libc::SIGCONT }),
            permit = window.acquire_many(waiting.as_ref().map_or(0, |chunk| chunk.len().min(STDIN_WINDOW) as u32)),
                if waiting.is_some() =>
            {
                // It is never closed.
                let Ok(permit) = permit else { return Ok(()) };
                let count = permit.num_permits();
                permit.forget();
                let Some(mut chunk) = waiting.take() else { continue };
                let sent = chunk.split_to(count);
                waiting = Some(chunk).filter(|chunk| !chunk.is_empty());
                Frame::Data(STDIN, sent)
            }
            message = incoming.next(), if waiting.is_none() => match message {
                Some(ChannelMsg::Data { data }) if !data.is_empty() => {
                    waiting = Some(data);
                    continue;
                }
                Some(ChannelMsg::Eof) => Frame::control(&ToCommand::StdinClosed),
                Some(ChannelMsg::Close) | None => return Ok(()),
                Some(_) => continue,
            },
        };
        writer.send(frame).await?;
    }
}

/// Sends what the command says, to its end.
async fn read(
    outgoing: &ChannelWriteHalf<Msg>,
    reader: &mut Reader,
    window: &Semaphore,
    go_on: mpsc::Sender<()>,
) -> Result<Exit, AgentError> {
    loop {
        match reader.next().await.unwrap_or(Err(FrameError::Ended))? {
            // A client that is gone is for the other direction to find out.
            Frame::Data(STDOUT, chunk) => _ = outgoing.data_bytes(chunk).await,
            Frame::Data(STDERR, chunk) => _ = outgoing.extended_data_bytes(EXTENDED_STDERR, chunk).await,
            Frame::Data(..) => {}
            frame => match frame.message()? {
                FromCommand::StdinTaken { bytes } => {
                    window.add_permits(bytes.min(STDIN_WINDOW - window.available_permits().min(STDIN_WINDOW)));
                }
                FromCommand::Stopped => _ = go_on.try_send(()),
                // The client shows what the command said, and nothing else.
                FromCommand::OutOfMemory => {}
                FromCommand::Exited(exit) => return Ok(exit),
            },
        }
    }
}

/// Variables that sshd gives, and on which shells go by: a connection that is no socket has no
/// addresses.
pub(super) fn variables() -> Vec<(Bytes, Bytes)> {
    let unknown = "UNKNOWN 65535";
    vec![
        ("SSH_CLIENT".into(), format!("{unknown} 65535").into()),
        ("SSH_CONNECTION".into(), format!("{unknown} {unknown}").into()),
    ]
}

/// Where an agent that is forwarded can be found.
pub(super) fn agent_variable(socket: &Arc<Bytes>) -> (Bytes, Bytes) {
    ("SSH_AUTH_SOCK".into(), Bytes::clone(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_numbers() {
        assert_eq!(number(&Sig::TERM), Some(15));
        assert_eq!(number(&Sig::Custom("USR2".into())), Some(12));
        assert_eq!(number(&Sig::Custom("INFO".into())), None);
    }

    #[test]
    fn what_a_guest_says_in_an_error_is_text() {
        let error = CommandError::new("no `\u{1b}[31m`").hint("look");
        assert_eq!(message(&error), "banger: error: no `^[[31m`\r\n  hint: look\r\n");
    }
}
