//! Progress of long operations, reported by calls.

/// Receives the progress of an operation. Calls come from several threads, in order.
pub trait Progress: Send + Sync {
    /// A phase begins; `what` is a short lower-case phrase such as `downloading packages`.
    fn phase(&self, what: &str);

    /// `done` of `total` steps or bytes of the current phase are done. Not every phase calls this.
    fn advance(&self, done: u64, total: u64);

    /// A message for the user, such as that another process is being waited for.
    fn message(&self, text: &str);
}

/// Ignores progress.
#[cfg(test)]
pub(crate) struct Silent;

#[cfg(test)]
impl Progress for Silent {
    fn phase(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn message(&self, _: &str) {}
}
