//! The user's side of this machine: where banger keeps its files ([`paths`]), who else may write
//! to them ([`permissions`]), how a file is replaced (`file`) and a path quoted (`shell`); what
//! the machine has (`hardware`), and what other programs have written down there (`npm`,
//! [`terminfo`]). `scratch` has temporary directories.

pub(crate) mod file;
pub(crate) mod hardware;
pub(crate) mod npm;
pub mod paths;
pub mod permissions;
pub(crate) mod scratch;
pub(crate) mod shell;
pub mod terminfo;
