//! Tar archives from entries ([`write`]), and entries from tar archives ([`read`]).

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use self::read::read;
pub(super) use self::write::write;
