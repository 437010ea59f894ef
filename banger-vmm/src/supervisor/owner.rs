//! The end of the command that an ephemeral VM is for.

use std::future::pending;
use std::path::Path;
use std::thread;

use tokio::sync::oneshot;

use crate::owner;

/// Completes when the owner of the VM in `folder` has ended, and never if there is none or it
/// cannot be watched: the next command of its kind sweeps.
pub(super) async fn ended(folder: &Path) {
    let (sender, receiver) = oneshot::channel();
    let folder = folder.to_owned();
    // flock(2) waits in a thread of its own, which ends with this process at the latest.
    let waiting = thread::Builder::new().name("owner".to_owned()).spawn(move || {
        if owner::wait(&folder) {
            // Nobody listens any more if the VM went first.
            let _ = sender.send(());
        }
    });
    if waiting.is_err() || receiver.await.is_err() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn owner_end_is_seen_before_and_after_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let owner = owner::begin(&path).unwrap();
        let watching = tokio::spawn(async move { ended(&path).await });
        tokio::task::yield_now().await;
        assert!(!watching.is_finished());
        drop(owner);
        watching.await.unwrap();
        ended(folder.path()).await;
    }
}
