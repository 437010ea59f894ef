//! The two kinds of things that a catalog names and a store keeps.

use std::fmt;

/// Whether a name or an error is about an image or a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A root file system.
    Image,
    /// A Linux kernel with its modules.
    Kernel,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Image => "image",
            Kind::Kernel => "kernel",
        })
    }
}
