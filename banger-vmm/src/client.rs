//! A command's end of a VM's socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::de::DeserializeOwned;

use crate::error::{Error, IoContext, Result};
use crate::wire::{self, MAX_REPLY, Reply, Request, SOCKET};

/// A connection on which nothing was said yet.
pub(crate) struct Connection {
    vm: String,
    stream: UnixStream,
}

/// Connects to the VM's supervisor.
pub(crate) fn connect(vm: &str, folder: &Path) -> Result<Connection> {
    // A socket's path ends at 107 bytes: through the folder's descriptor it is always short.
    let directory = File::open(folder).at("open", folder)?;
    let stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()));
    let stream = stream.at("connect to", &folder.join(SOCKET))?;
    // Whoever serves it is told what to run, and what to answer.
    let owner = getsockopt(&stream, PeerCredentials).at("look at", &folder.join(SOCKET))?.uid();
    if owner != geteuid().as_raw() {
        let reason = format!("its socket is served by another user, of uid {owner}");
        return Err(Error::Supervisor { name: vm.to_owned(), reason });
    }
    Ok(Connection { vm: vm.to_owned(), stream })
}

impl Connection {
    /// Turns the connection into a stream to the agent, which is use of the VM unless it is `only_look`.
    pub(crate) fn agent(mut self, only_look: bool) -> Result<UnixStream> {
        self.exchange::<()>(&Request::Agent { only_look })?;
        Ok(self.stream)
    }

    /// Uses the VM for as long as the returned stream is open.
    pub(crate) fn hold(mut self, idle_timeout_ms: u64) -> Result<UnixStream> {
        self.exchange::<()>(&Request::Use { idle_timeout_ms })?;
        Ok(self.stream)
    }

    /// An answer that does not come within `patience` is none.
    pub(crate) fn within(self, patience: Duration) -> Result<Connection> {
        let limited = self.stream.set_read_timeout(Some(patience));
        limited.map_err(|error| Error::Supervisor { name: self.vm.clone(), reason: error.to_string() })?;
        Ok(self)
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask<T: DeserializeOwned>(mut self, request: &Request) -> Result<T> {
        self.exchange(request)
    }

    fn exchange<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        // A supervisor that has no room for another client answers, and closes, before it has heard anything.
        let asked = self.stream.write_all(&wire::frame(request));
        match read_frame(&mut self.stream).map_err(|error| asked.err().unwrap_or(error)) {
            Ok(Reply::Ok(answer)) => Ok(answer),
            Ok(Reply::Error(failure)) if failure.going_down => Err(Error::GoingDown(self.vm.clone())),
            Ok(Reply::Error(failure)) => Err(Error::Refused { name: self.vm.clone(), failure }),
            Err(error) => Err(Error::Supervisor { name: self.vm.clone(), reason: error.to_string() }),
        }
    }
}

fn read_frame<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_REPLY {
        return Err(io::Error::other(format!("a reply of {length} bytes")));
    }
    let mut json = vec![0; length];
    stream.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
