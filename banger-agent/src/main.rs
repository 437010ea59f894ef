//! `/init` of banger's initramfs, and the server of every operation in the guest.

use banger_agent::guest::{init, serve};

#[expect(clippy::print_stderr, reason = "a program's last words, on the guest's console")]
fn main() {
    init::boot(|context| {
        if let Err(error) = serve(context) {
            // Standard error is the console, which the host keeps.
            eprintln!("banger-agent: cannot serve: {error}");
        }
    })
}
