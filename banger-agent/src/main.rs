//! `/init` of banger's initramfs, the server of every operation in the guest, and, by another name,
//! that of its files.

use banger_agent::guest::{init, serve, sftp};

#[expect(clippy::print_stderr, reason = "a program's last words, on the guest's console")]
fn main() {
    if sftp::is_wanted() {
        if let Err(error) = sftp::serve() {
            eprintln!("banger's file server: {error}");
        }
        return;
    }
    init::boot(|context| {
        if let Err(error) = serve(context) {
            // Standard error is the console, which the host keeps.
            eprintln!("banger-agent: cannot serve: {error}");
        }
    })
}
