//! Commands of an agent that says what each test wants, on the other end of a socket.

use std::pin::pin;
use std::time::Duration;

use banger_agent::frame::FrameCodec;
use banger_agent::protocol::{AgentFailure, AgentFailureKind, AgentReply};
use serde::Serialize;
use tokio::net::UnixStream as AsyncUnixStream;
use tokio_util::codec::Framed;

use super::*;

/// The agent's end of a command's stream.
struct Agent(Framed<AsyncUnixStream, FrameCodec>);

/// A stream to an agent, and the agent.
fn agent() -> (UnixStream, Agent) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, Agent(Framed::new(AsyncUnixStream::from_std(theirs).unwrap(), FrameCodec)))
}

impl Agent {
    /// Takes a request for a command, and answers it.
    async fn start(&mut self) {
        let request = self.receive().await;
        assert!(matches!(request.message(), Ok(AgentRequest::Exec(Exec { clock_ns: 1.., .. }))), "{request:?}");
        self.say(&AgentReply::Ok(Started { pid: 7 })).await;
    }

    async fn say<T: Serialize>(&mut self, message: &T) {
        self.send(Frame::control(message)).await;
    }

    async fn send(&mut self, frame: Frame) {
        self.0.send(frame).await.unwrap();
    }

    async fn receive(&mut self) -> Frame {
        self.0.next().await.unwrap().unwrap()
    }

    /// Takes so much standard input, in bytes.
    async fn take_stdin(&mut self, mut count: usize) {
        while count > 0 {
            let frame = self.receive().await;
            let Frame::Data(STDIN, bytes) = frame else { panic!("no standard input: {frame:?}") };
            count = count.checked_sub(bytes.len()).expect("more than there is room for");
        }
    }

    /// Nothing comes for a while.
    async fn hears_nothing(&mut self) {
        let frame = timeout(Duration::from_millis(50), self.0.next()).await;
        assert!(frame.is_err(), "{frame:?}");
    }
}

/// A command that was started, and its agent.
async fn started() -> (GuestCommand, Agent) {
    let (stream, mut agent) = agent();
    let (command, ()) = tokio::join!(GuestCommand::spawn_on(stream, Exec::default()), agent.start());
    (command.unwrap(), agent)
}

/// Sends all of a command's input, and reads what it does to its end.
async fn drive(command: GuestCommand) -> Result<Exit, AgentError> {
    let GuestCommand { mut input, mut output } = command;
    loop {
        tokio::select! {
            sent = input.send(), if !input.is_sent() => sent?,
            event = output.next() => if let CommandEvent::Exited(exit) = event? {
                return Ok(exit);
            },
        }
    }
}

#[tokio::test]
async fn stdin_waits_until_the_command_takes_it() {
    let (mut command, mut agent) = started().await;
    command.input.queue_stdin(vec![b'x'; STDIN_WINDOW + 300_000].into());
    command.input.close_stdin();
    let driving = tokio::spawn(drive(command));
    agent.take_stdin(STDIN_WINDOW).await;
    agent.hears_nothing().await;
    agent.say(&FromCommand::StdinTaken { bytes: 100_000 }).await;
    agent.take_stdin(100_000).await;
    agent.hears_nothing().await;
    agent.say(&FromCommand::StdinTaken { bytes: 500_000 }).await;
    agent.take_stdin(200_000).await;
    let end = agent.receive().await;
    assert!(matches!(end.message(), Ok(ToCommand::StdinClosed)), "{end:?}");
    agent.say(&FromCommand::Exited(Exit::Code(3))).await;
    assert_eq!(driving.await.unwrap().unwrap(), Exit::Code(3));
}

#[tokio::test]
async fn agent_that_claims_to_have_taken_more_than_was_sent_gets_no_more_than_the_window() {
    let (mut command, mut agent) = started().await;
    command.input.queue_stdin(vec![b'x'; 3 * STDIN_WINDOW].into());
    let driving = tokio::spawn(drive(command));
    agent.take_stdin(STDIN_WINDOW).await;
    agent.say(&FromCommand::StdinTaken { bytes: usize::MAX }).await;
    agent.take_stdin(STDIN_WINDOW).await;
    agent.hears_nothing().await;
    driving.abort();
}

#[tokio::test]
async fn signals_and_sizes_pass_standard_input_that_waits() {
    let (GuestCommand { mut input, output: _output }, mut agent) = started().await;
    input.queue_stdin(vec![b'x'; STDIN_WINDOW + 1].into());
    {
        let mut sending = pin!(input.send());
        tokio::select! {
            sent = &mut sending => panic!("{sent:?}, though the window is full"),
            () = agent.take_stdin(STDIN_WINDOW) => {}
        }
        assert!(timeout(Duration::from_millis(50), sending).await.is_err());
    }
    assert!(input.is_flushed() && !input.is_sent());
    input.signal(2);
    input.resize(Size { rows: 24, columns: 80 });
    assert!(!input.is_flushed());
    input.flush().await.unwrap();
    assert!(input.is_flushed() && !input.is_sent());
    let said: [ToCommand; 2] = [agent.receive().await, agent.receive().await].map(|frame| frame.message().unwrap());
    assert_eq!(said, [ToCommand::Signal { signal: 2 }, ToCommand::Resize(Size { rows: 24, columns: 80 })]);
}

#[tokio::test]
async fn events_come_in_order_and_other_channels_are_skipped() {
    let (mut command, mut agent) = started().await;
    agent.send(Frame::Data(STDOUT, "out".into())).await;
    agent.send(Frame::Data(9, "of a later version".into())).await;
    agent.send(Frame::Data(STDERR, "error".into())).await;
    agent.say(&FromCommand::Stopped).await;
    agent.say(&FromCommand::OutOfMemory).await;
    agent.say(&FromCommand::Exited(Exit::Signal(9))).await;
    for event in [
        CommandEvent::Stdout("out".into()),
        CommandEvent::Stderr("error".into()),
        CommandEvent::Stopped,
        CommandEvent::OutOfMemory,
        CommandEvent::Exited(Exit::Signal(9)),
    ] {
        assert_eq!(command.output.next().await.unwrap(), event);
    }
}

#[tokio::test]
async fn stream_that_ends_before_the_command_is_an_error_of_the_output_and_takes_what_was_queued() {
    let (GuestCommand { mut input, mut output }, mut agent) = started().await;
    agent.send(Frame::Data(STDOUT, "last words".into())).await;
    drop(agent);
    input.queue_stdin("x".into());
    while input.send().await.is_ok() {
        input.queue_stdin("x".into());
    }
    assert!(input.is_sent());
    assert_eq!(output.next().await.unwrap(), CommandEvent::Stdout("last words".into()));
    let ended = output.next().await;
    assert!(matches!(ended, Err(AgentError::Broken(_))), "{ended:?}");
}

#[tokio::test]
async fn command_that_cannot_start_is_refused() {
    let (stream, mut agent) = agent();
    let refusal = async {
        agent.receive().await;
        let failure = AgentFailure::new(AgentFailureKind::CommandNotFound, "no such command");
        agent.say(&AgentReply::<Started>::Error(failure)).await;
    };
    let (spawned, ()) = tokio::join!(GuestCommand::spawn_on(stream, Exec::default()), refusal);
    assert!(matches!(spawned, Err(AgentError::Refused(failure)) if failure.kind == AgentFailureKind::CommandNotFound));
}

#[tokio::test]
async fn run_gives_all_output_as_it_comes_and_keeps_the_end() {
    // As the ssh plugin does it, within a runtime.
    let (stream, mut agent) = agent();
    let serving = tokio::spawn(async move {
        agent.start().await;
        let (input, end) = (agent.receive().await, agent.receive().await);
        assert_eq!(input, Frame::Data(STDIN, "script".into()));
        assert!(matches!(end.message(), Ok(ToCommand::StdinClosed)), "{end:?}");
        agent.send(Frame::Data(STDOUT, vec![b'x'; KEPT].into())).await;
        agent.send(Frame::Data(STDERR, "\n1\n2\n3\n4\n5\n6\n".into())).await;
        agent.say(&FromCommand::OutOfMemory).await;
        agent.say(&FromCommand::Exited(Exit::Code(1))).await;
    });
    let running = tokio::task::spawn_blocking(move || {
        let mut seen = 0;
        let finished = run_on(stream, Exec::default(), b"script", |output| seen += output.len());
        (seen, finished.unwrap())
    });
    let (seen, finished) = running.await.unwrap();
    serving.await.unwrap();
    assert_eq!((seen, finished.output.len()), (KEPT + 13, KEPT));
    assert_eq!(finished.last_lines(), ["2", "3", "4", "5", "6"]);
    assert_eq!((finished.exit, finished.out_of_memory), (Exit::Code(1), true));
}
