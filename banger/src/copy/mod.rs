//! Copies between the host and a VM: the host's side of [`banger_agent::protocol::copy`].

mod archive;
mod free_space;
mod rules;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;

use banger_agent::copy::{CopyError, Opened, SourcePath, Target, receive, send};
use banger_agent::frame::{Frame, FrameError};
use banger_agent::protocol::copy::{Announced, CONTENT, Copied, CopyIn, CopyOut, FromCopy, Source, ToCopy};
use banger_agent::protocol::{AgentRequest, WireBytes};
use banger_vmm::Vm;
use bytes::Buf;

pub use self::free_space::FreeSpace;
use self::rules::HostRules;
use crate::error::{CommandError, ErrorKind};
use crate::vm::agent::{AgentError, Call, DataWriter};

/// A path in the guest that is copied to the host.
pub struct GuestSource {
    /// The absolute path in the guest.
    pub path: WireBytes,
    /// The end of the path that the user, or banger, gave: it names the copy. Empty if the whole
    /// path is from an image.
    pub asked: OsString,
}

/// Copies `from`, a path in the guest, to `to`, a path of the host.
///
/// # Errors
/// If the guest cannot read or the host cannot write; if the guest sends what was not asked for, or
/// a repository, whose configuration could run programs on the host.
pub fn to_host(vm: &Vm, from: GuestSource, to: &Path) -> Result<Copied, CommandError> {
    let mut rules = HostRules::new(&from.asked);
    out(vm, from, |source, input| receive(Target::find_at(to, source)?, input, &mut rules))
}

/// Writes `from`, a path in the guest, to `to` as a tar archive.
///
/// # Errors
/// If the guest cannot read or the host cannot write; if the guest sends what was not asked for.
pub fn to_archive(vm: &Vm, from: GuestSource, to: &mut dyn Write) -> Result<Copied, CommandError> {
    out(vm, from, |source, input| archive::write(source, input, to))
}

/// Copies `from`, a path of the host, to `to`, an absolute path in the guest.
///
/// # Errors
/// If the host cannot read or the guest cannot write.
pub fn to_guest(vm: &Vm, from: &Path, to: WireBytes) -> Result<Copied, CommandError> {
    let opened = Opened::new(from).map_err(error)?;
    into(vm, to, opened.source.clone(), |out| send(opened, out))
}

/// Unpacks a tar archive, which may be compressed with gzip, bzip2, xz or zstd, into the directory
/// `to`, an absolute path in the guest.
///
/// # Errors
/// If the host cannot read the archive or the guest cannot write.
pub fn from_archive(vm: &Vm, from: impl Read + Send, to: WireBytes) -> Result<Copied, CommandError> {
    let source = Source { name: WireBytes::default(), is_folder: true, contents: true };
    into(vm, to, source, |out| archive::read(from, out))
}

fn out(
    vm: &Vm,
    from: GuestSource,
    take: impl FnOnce(&Source, &mut dyn Read) -> Result<Copied, CopyError>,
) -> Result<Copied, CommandError> {
    let asked = SourcePath::new(Path::new(from.path.as_os_str()));
    let mut call = Call::open(vm, &AgentRequest::CopyOut(CopyOut { path: from.path }))?;
    let announced: Announced = call.answer()?;
    let mut source = asked.confirm(&announced).map_err(error)?;
    if from.asked.is_empty() {
        // Then it needs one here.
        (source.name, source.contents) = (WireBytes::default(), false);
    }
    let mut input = Input { call: &mut call, chunk: bytes::Bytes::new(), last: None };
    let taken = take(&source, &mut input);
    // What went wrong there says more than that the stream ended here.
    match (input.last, taken) {
        (Some(Err(broken)), _) => Err(broken.into()),
        (Some(Ok(FromCopy::Failed(failure))), _) => Err(AgentError::from(failure).into()),
        (_, Err(failed)) => Err(error(failed)),
        (Some(Ok(FromCopy::Done(sent))), Ok(taken)) => Ok(Copied { skipped: sent.skipped, ..taken }),
        (None, Ok(_)) => Err(AgentError::from(FrameError::Unexpected("more than what was announced")).into()),
    }
}

fn into(
    vm: &Vm,
    path: WireBytes,
    source: Source,
    give: impl FnOnce(&mut dyn Write) -> Result<Copied, CopyError>,
) -> Result<Copied, CommandError> {
    let mut call = Call::open(vm, &AgentRequest::CopyIn(CopyIn { path, source }))?;
    call.answer::<()>()?;
    let given = give(&mut Output(call.data(CONTENT)));
    match &given {
        Ok(_) => call.say(&ToCopy::Commit)?,
        // Where the guest does not take any more it has said why.
        Err(CopyError::Stream(_)) => {}
        Err(_) => return given.map_err(error),
    }
    match call.receive()?.ok_or(AgentError::from(FrameError::Ended))?.message().map_err(AgentError::from)? {
        FromCopy::Failed(failure) => Err(AgentError::from(failure).into()),
        FromCopy::Done(taken) => Ok(Copied { skipped: given.map_err(error)?.skipped, ..taken }),
    }
}

fn error(error: CopyError) -> CommandError {
    let kind = match &error {
        CopyError::Io { source, .. } => source.into(),
        CopyError::Stream(source) if ErrorKind::from(source) == ErrorKind::NoSpace => ErrorKind::NoSpace,
        CopyError::Place { .. } => ErrorKind::Io,
        CopyError::Refused { .. } => ErrorKind::Failed,
        CopyError::NotAsked { .. } | CopyError::Stream(_) | CopyError::Malformed(_) => ErrorKind::Agent,
    };
    let command = CommandError::new(error.to_string()).kind(kind);
    match error {
        CopyError::Refused { .. } => command.hint("to copy a repository, name it: banger cp :PATH/.git DIR/.git").hint(
            "or copy everything as an archive, and look at that before you unpack it: banger cp :PATH - >FILE.tar",
        ),
        _ if kind == ErrorKind::NoSpace => command.hint("free some disk space"),
        _ => command,
    }
}

/// Reads the entries that the agent sends.
struct Input<'a> {
    call: &'a mut Call,
    chunk: bytes::Bytes,
    /// What came after them.
    last: Option<Result<FromCopy, AgentError>>,
}

impl Input<'_> {
    fn next(&mut self) -> Result<Option<bytes::Bytes>, AgentError> {
        match self.call.receive()?.ok_or(FrameError::Ended)? {
            Frame::Data(CONTENT, chunk) => Ok(Some(chunk)),
            frame => {
                self.last = Some(Ok(frame.message()?));
                Ok(None)
            }
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && self.last.is_none() {
            match self.next() {
                Ok(Some(chunk)) => self.chunk = chunk,
                Ok(None) => {}
                Err(error) => self.last = Some(Err(error)),
            }
        }
        if self.chunk.is_empty() && !matches!(self.last, Some(Ok(FromCopy::Done(_)))) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Writes entries to the agent.
struct Output<'a>(DataWriter<'a>);

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
