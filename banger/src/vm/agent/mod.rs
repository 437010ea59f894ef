//! Operations of the VM's agent, from the host's side: [`Call`] with blocking reads and writes,
//! [`begin`] for tasks.

mod operation;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_agent::frame::{Frame, FrameCodec, FrameError, MAX_DATA};
use banger_agent::protocol::{AgentFailure, AgentFailureKind, AgentReply, AgentRequest, FileInfo, WireBytes};
use banger_vmm::Vm;
use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::{Decoder, Encoder};

pub(crate) use self::operation::begin_on;
pub use self::operation::{Reader, Writer, begin};
use crate::error::{CommandError, ErrorKind};

/// Within this time an agent begins an operation, or refuses it.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// An agent is not silent for longer than this while it works: comparing, or writing out, a whole
/// workspace takes long. It takes a frame of the host's within this time too.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(600);
/// A frame is whole within this time of its first byte: an agent sends only what it has at hand.
pub(crate) const FRAME_LIMIT: Duration = Duration::from_secs(30);
/// How long a command that only shows a VM's state waits for the VM's answer.
pub const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// Why an operation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The VM has no agent to talk to.
    #[error(transparent)]
    Vm(#[from] banger_vmm::Error),
    /// The agent did not do what it was asked.
    #[error(transparent)]
    Refused(#[from] AgentFailure),
    /// What the agent sent makes no sense, or the connection ended.
    #[error("the connection to the VM's agent broke: {0}")]
    Broken(FrameError),
    /// The agent is there, and does nothing.
    #[error("the VM's agent does not answer")]
    Silent,
}

impl From<io::Error> for AgentError {
    fn from(error: io::Error) -> Self {
        FrameError::from(error).into()
    }
}

impl From<FrameError> for AgentError {
    fn from(error: FrameError) -> Self {
        match error {
            // What a socket says when its time limit has passed: socket(7), SO_RCVTIMEO.
            FrameError::Io(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                AgentError::Silent
            }
            error => AgentError::Broken(error),
        }
    }
}

impl From<AgentError> for CommandError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Vm(error) => error.into(),
            AgentError::Refused(failure) => failure.into(),
            AgentError::Silent => {
                CommandError::new(error.to_string()).kind(ErrorKind::Agent).hint("stop the VM: banger stop --force")
            }
            AgentError::Broken(_) => CommandError::new(error.to_string())
                .kind(ErrorKind::Agent)
                .hint("run it again: the VM is started if it does not run"),
        }
    }
}

/// How long an agent may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Between two frames.
    pub(crate) silence: Duration,
    /// From the first byte of a frame to its last.
    pub(crate) frame: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { silence: SILENCE_LIMIT, frame: FRAME_LIMIT }
    }
}

/// The stream of one operation.
pub struct Call {
    stream: UnixStream,
    received: BytesMut,
    limits: Limits,
    /// When all that is waited for must have come; none: that is not known.
    end: Option<Instant>,
    /// The socket's current SO_RCVTIMEO.
    timeout: Option<Duration>,
}

impl Call {
    /// Opens a stream and sends the request.
    ///
    /// # Errors
    /// If the VM or its agent is gone.
    pub fn open(vm: &Vm, request: &AgentRequest) -> Result<Call, AgentError> {
        Call::on(vm.connect_agent()?, request, Limits::default())
    }

    pub(crate) fn on(stream: UnixStream, request: &AgentRequest, limits: Limits) -> Result<Call, AgentError> {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(SILENCE_LIMIT))?;
        let mut call = Call { stream, received: BytesMut::new(), limits, end: None, timeout: None };
        call.send(Frame::control(request))?;
        Ok(call)
    }

    /// Sends a request whose answer is a single frame.
    ///
    /// # Errors
    /// If it is refused, does not come within [`ANSWER_LIMIT`], or the connection breaks.
    pub fn ask<T: DeserializeOwned>(vm: &Vm, request: &AgentRequest) -> Result<T, AgentError> {
        Call::open(vm, request)?.answer()
    }

    /// Sends a request about the VM's state, whose answer is a single frame. It does not keep the
    /// VM from stopping for being idle. The answer comes within [`LOOK_LIMIT`].
    ///
    /// # Errors
    /// As [`Call::ask`].
    pub fn look<T: DeserializeOwned>(vm: &Vm, request: &AgentRequest) -> Result<T, AgentError> {
        let start = Instant::now();
        let mut call = Call::on(vm.watch_agent(LOOK_LIMIT)?, request, Limits::default())?;
        call.answer_within(LOOK_LIMIT.saturating_sub(start.elapsed()))
    }

    /// Sends a request whose answer is a single frame, and on which the agent may work for as long
    /// as `limit` before it answers.
    ///
    /// # Errors
    /// As [`Call::ask`].
    pub fn ask_within<T: DeserializeOwned>(vm: &Vm, request: &AgentRequest, limit: Duration) -> Result<T, AgentError> {
        Call::open(vm, request)?.answer_within(limit + ANSWER_LIMIT)
    }

    /// Sets a limit for all that is received from now on together, however many frames it is.
    pub(crate) fn end_within(&mut self, limit: Duration) {
        self.end = Instant::now().checked_add(limit);
    }

    /// Lifts the limit that [`Call::end_within`] set.
    pub(crate) fn end_whenever(&mut self) {
        self.end = None;
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn send(&mut self, frame: Frame) -> Result<(), AgentError> {
        let mut wire = BytesMut::new();
        FrameCodec.encode(frame, &mut wire)?;
        Ok(write_within(&mut self.stream, &wire, SILENCE_LIMIT)?)
    }

    /// Sends a control frame.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn say<T: Serialize>(&mut self, message: &T) -> Result<(), AgentError> {
        self.send(Frame::control(message))
    }

    /// Receives one frame; none at the orderly end of the stream.
    ///
    /// # Errors
    /// [`AgentError::Silent`] if it does not come in time; if the connection breaks, or what it
    /// brings is no frame.
    pub fn receive(&mut self) -> Result<Option<Frame>, AgentError> {
        let mut whole_by = None;
        loop {
            if let Some(frame) = FrameCodec.decode(&mut self.received)? {
                return Ok(Some(frame));
            }
            if !self.received.is_empty() && whole_by.is_none() {
                whole_by = Instant::now().checked_add(self.limits.frame);
            }
            let silence = self.received.is_empty().then_some(self.limits.silence);
            self.wait_for(silence, [whole_by, self.end].into_iter().flatten().min())?;
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk)? {
                0 if self.received.is_empty() => return Ok(None),
                0 => return Err(FrameError::Ended.into()),
                count => self.received.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// The next read may take `longest`, and must be over by `deadline`.
    fn wait_for(&mut self, longest: Option<Duration>, deadline: Option<Instant>) -> Result<(), AgentError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(AgentError::Silent);
        }
        let timeout = [longest, left].into_iter().flatten().min();
        if timeout != self.timeout {
            self.stream.set_read_timeout(timeout)?;
            self.timeout = timeout;
        }
        Ok(())
    }

    /// Receives the operation's answer.
    ///
    /// # Errors
    /// If it is a refusal, or does not come within [`ANSWER_LIMIT`].
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T, AgentError> {
        self.answer_within(ANSWER_LIMIT)
    }

    pub(crate) fn answer_within<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, AgentError> {
        let end = self.end;
        self.end_within(limit);
        let answer = self.receive()?.ok_or(FrameError::Ended)?.message()?;
        self.end = end;
        match answer {
            AgentReply::Ok(value) => Ok(value),
            AgentReply::Error(failure) => Err(failure.into()),
        }
    }

    /// Makes a writer of data frames on `channel`.
    ///
    /// # Panics
    /// If that is 0, the channel of control frames.
    pub fn data(&mut self, channel: u8) -> DataWriter<'_> {
        assert_ne!(channel, 0, "data on the channel of control frames");
        DataWriter { stream: &mut self.stream, channel, frame: vec![0; HEADER + MAX_DATA], used: 0 }
    }
}

/// Writes all of `bytes`. A system call takes no longer than the socket's SO_SNDTIMEO; all of them
/// together, about `limit`.
fn write_within(stream: &mut UnixStream, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let start = Instant::now();
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if !bytes.is_empty() && start.elapsed() >= limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// Reads the regular file at `path` in the guest; none if it does not exist. All of it comes within
/// [`SILENCE_LIMIT`].
///
/// # Errors
/// If it is longer than `limit` bytes, which is a failure of kind [`AgentFailureKind::TooLong`], or
/// no regular file.
pub fn read_file(vm: &Vm, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, AgentError> {
    let mut call = Call::open(vm, &AgentRequest::ReadFile { path: WireBytes(path.to_vec()), limit })?;
    let info: FileInfo = match call.answer() {
        Ok(info) => info,
        Err(AgentError::Refused(failure)) if failure.kind == AgentFailureKind::NoSuchFile => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::with_capacity(info.size.min(limit) as usize);
    call.end_within(SILENCE_LIMIT);
    while let Some(frame) = call.receive()? {
        let Frame::Data(1, chunk) = frame else {
            return Err(FrameError::Unexpected("something else than a file's content").into());
        };
        if chunk.is_empty() || (content.len() + chunk.len()) as u64 > info.size.min(limit) {
            return Err(FrameError::Unexpected("more content than the file has").into());
        }
        content.extend_from_slice(&chunk);
    }
    if content.len() as u64 == info.size { Ok(Some(content)) } else { Err(FrameError::Ended.into()) }
}

/// Writes bytes as data frames of the greatest length ([`MAX_DATA`]). What is left is sent by
/// [`DataWriter::flush`].
pub struct DataWriter<'a> {
    stream: &'a mut UnixStream,
    channel: u8,
    /// Room for a header and the longest payload.
    frame: Vec<u8>,
    /// How much of the payload is there.
    used: usize,
}

/// Of a frame: kind and length.
const HEADER: usize = 5;

impl DataWriter<'_> {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled(count)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Where the next bytes go: never empty. To be followed by [`DataWriter::filled`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.frame[HEADER + self.used..]
    }

    /// Says how many bytes of [`DataWriter::room`] were filled.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn filled(&mut self, count: usize) -> io::Result<()> {
        self.used += count;
        if self.used == MAX_DATA { self.flush() } else { Ok(()) }
    }

    /// Sends what is gathered.
    ///
    /// # Errors
    /// If the connection breaks.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.used > 0 {
            self.frame[0] = self.channel;
            self.frame[1..HEADER].copy_from_slice(&(self.used as u32).to_be_bytes());
            write_within(self.stream, &self.frame[..HEADER + self.used], SILENCE_LIMIT)?;
            self.used = 0;
        }
        Ok(())
    }
}
