//! What several of banger's crates need of files, processes and foreign text.
//!
//! * [`file`]: files that are replaced as a whole.
//! * [`checksummed`]: values in files, and in records of a log, that know when they are damaged.
//! * [`sparse`]: files with holes, and copies that keep or share what they hold.
//! * [`process`]: processes by descriptor, and what `/proc` says about them.
//! * [`text`]: foreign bytes that a terminal can be given.
//!
//! It depends on no other crate of banger's, and on no runtime.

pub mod checksummed;
pub mod file;
pub mod process;
pub mod sparse;
pub mod text;
