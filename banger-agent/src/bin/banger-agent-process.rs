//! The agent in a guest that is a process of the host: see [`banger_agent::guest::init::process`].
//! Never installed.
//!
//! Arguments: the folder that survives the guest, its host name, and `volatile` if nothing has to.

use std::path::PathBuf;

use banger_agent::guest::init::process::{ProcessGuest, boot};
use banger_agent::guest::{serve, sftp};

#[expect(clippy::print_stderr, reason = "a program's last words, on the guest's console")]
fn main() {
    if sftp::is_wanted() {
        if let Err(error) = sftp::serve() {
            eprintln!("banger's file server: {error}");
        }
        return;
    }
    let mut arguments = std::env::args_os().skip(1);
    let folder = arguments.next().map(PathBuf::from).unwrap_or_default();
    let hostname = arguments.next().unwrap_or_default();
    let guest = ProcessGuest {
        folder: &folder,
        hostname: &hostname.to_string_lossy(),
        volatile: arguments.next().is_some_and(|word| word == "volatile"),
    };
    boot(&guest, |context| {
        if let Err(error) = serve(context) {
            eprintln!("banger-agent: cannot serve: {error}");
        }
    })
}
