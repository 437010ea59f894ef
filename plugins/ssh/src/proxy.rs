//! `banger ssh-proxy`: serves one connection of ssh.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;

use banger::cli::Global;
use banger::error::{CommandError, ErrorKind};
use banger::host::paths::Paths;
use banger::output::ui::Ui;
use banger::run;
use banger::store::images::{self, Images};
use banger::vm::authorized_key;
use banger::vm::machine::{Machines, VmSpec, named};
use nix::fcntl::{FcntlArg, fcntl};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio_util::either::Either;

use crate::keys::{self, Keys};
use crate::options::SUFFIX;
use crate::server::{self, Guest, Up};

/// The capacity of the pipes to and from ssh, in bytes: the most that pipe(7) lets a user set.
const PIPE: i32 = 1 << 20;

/// Serves the client on standard input and output. The VM is started at the same time, and is in
/// use until the client disconnects.
pub(crate) fn proxy(name: &str, verbose: bool, paths: &Paths, ui: &Ui) -> Result<(), CommandError> {
    let vm = named(name.strip_suffix(SUFFIX).unwrap_or(name), &Machines::new(paths, ui))?;
    let keys = Keys::ensure(paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CommandError::new(format!("cannot serve: {error}")))?;
    let (paths, key) = (paths.clone(), keys::line(&keys.user)?);
    let served = runtime.block_on(async move {
        let guest = Guest::new(move || {
            // What is no error is nothing for whom ssh's own output is for.
            let ui = Ui::new(&Global { quiet: !verbose, verbose, ..Global::default() });
            let machine = Machines::new(&paths, &ui).start_found(&vm, &VmSpec::default())?;
            // Where a VM that ran has a server of its own, who asks for ssh may ask for that as
            // well.
            authorized_key::put_key(&machine.vm, &key, false, &ui);
            let image = Images::new(&paths, &ui).of(&machine.vm);
            let mut env = image.as_ref().map(images::variables).unwrap_or_default();
            match run::configured_variables(&machine.vm, &paths) {
                Ok(configured) => env.extend(configured),
                // It may be mended from within.
                Err(error) => Ui::new(&Global::default()).warning(&error.message),
            }
            Ok(Up { machine, env })
        });
        let stream =
            tokio::io::join(end(io::stdin(), pipe::Receiver::from_file)?, end(io::stdout(), pipe::Sender::from_file)?);
        server::serve(stream, keys, guest).await
    });
    // A start that is under way need not be waited for.
    runtime.shutdown_background();
    served
}

/// One of the standard streams, which ssh makes pipes, and others sockets.
fn end<P>(
    stream: impl AsFd,
    of_pipe: impl FnOnce(File) -> io::Result<P>,
) -> Result<Either<P, UnixStream>, CommandError> {
    let open = || -> io::Result<Option<Either<P, UnixStream>>> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_fifo() {
            // A few packets at a time, and not one. Where it may not be, it is slower.
            let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE));
            return Ok(Some(Either::Left(of_pipe(file)?)));
        }
        if !kind.is_socket() {
            return Ok(None);
        }
        let socket = StdUnixStream::from(OwnedFd::from(file));
        socket.set_nonblocking(true)?;
        Ok(Some(Either::Right(UnixStream::from_std(socket)?)))
    };
    match open() {
        Ok(Some(end)) => Ok(end),
        Ok(None) => {
            let error = CommandError::new("standard input and output are no connection of an SSH client");
            Err(error.kind(ErrorKind::Usage).hint("this is for ssh to run, as ProxyCommand: banger ssh-config"))
        }
        Err(error) => {
            Err(CommandError::new(format!("cannot use standard input and output: {error}")).kind((&error).into()))
        }
    }
}
