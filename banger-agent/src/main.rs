//! `/init` of banger's initramfs.
fn main() {}
