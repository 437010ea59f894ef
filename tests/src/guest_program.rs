//! Programs that tests run in guests: static, of the sources in `tests/guest`.

use std::path::Path;
use std::process::Command;

/// Compiles `guest/<name>.rs` to the file `to`.
///
/// # Panics
/// If it does not compile.
pub fn compile(name: &str, to: &Path) {
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(name).with_extension("rs");
    assert!(rustc.arg(to).arg(source).status().expect("rustc runs").success(), "{name} does not compile");
}
