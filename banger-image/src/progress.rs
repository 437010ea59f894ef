//! What a long operation has to tell, as calls instead of prints.

/// Listens to a build. Calls come from more than one thread, in the order things happen.
pub trait Progress: Send + Sync {
    /// A new phase has begun; `what` is a short lower-case phrase such as `downloading packages`.
    fn phase(&self, what: &str);

    /// `done` of `total` steps of the current phase are over. A phase that cannot tell never calls
    /// this.
    fn advance(&self, done: u64, total: u64);

    /// Something the user should read, such as that another build is being waited for.
    fn message(&self, text: &str);
}

/// Nobody listens.
#[cfg(test)]
pub(crate) struct Silent;

#[cfg(test)]
impl Progress for Silent {
    fn phase(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn message(&self, _: &str) {}
}
