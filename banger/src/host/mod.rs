//! The user's side of this machine: where banger keeps its files ([`paths`]), who else may write
//! to them ([`permissions`]), how one is replaced ([`file`]), and what other programs have written
//! down there ([`npm`], [`terminfo`]).

pub(crate) mod file;
pub(crate) mod npm;
pub mod paths;
pub mod permissions;
pub mod terminfo;
