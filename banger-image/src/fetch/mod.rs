//! Files that come from elsewhere: HTTP, where a file is, and files of known content.

pub(crate) mod http;
pub(crate) mod location;
pub(crate) mod pinned;
