//! Serving one sync, from the request to the last word.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::errno::Errno;
use tokio::sync::mpsc;

use super::apply::Staged;
use super::compare::{Comparison, Decision, compare};
use super::content::Contents;
use super::mount::{WorkspaceMount, remove_folder};
use super::records::Records;
use super::{Workspace, Workspaces, tree};
use crate::frame::{Frame, FrameError, MAX_DATA};
use crate::guest::clock::set_clock;
use crate::guest::stream::{Reader, Writer};
use crate::protocol::sync::{
    Begun, CONTENT, Change, FromSync, Item, MAX_ITEMS, MAX_NAMED, Mode, NEEDED, PLAN, Policy, SyncRequest, ToSync,
};
use crate::protocol::{self, AgentFailure, AgentFailureKind, AgentReply};

/// Serves one sync to the end.
pub(in crate::guest) async fn run(
    workspaces: &Arc<Workspaces>,
    request: SyncRequest,
    mut reader: Reader,
    mut writer: Writer,
) {
    let (all, root) = (Arc::clone(workspaces), request.root.clone());
    let find = move || {
        all.spend_reserve();
        all.at(&root)
    };
    let found = tokio::task::spawn_blocking(find).await;
    let workspace = match found.unwrap_or_else(|error| Err(broken(&error))) {
        Ok(workspace) => workspace,
        Err(failure) => {
            let _ = writer.send(Frame::control(&AgentReply::<Begun>::Error(failure))).await;
            let _ = writer.close().await;
            return;
        }
    };
    let _turn = workspace.turn.lock().await;
    // If the client goes away in the middle, there is nobody to tell, and nothing was changed.
    if let Err(End::Failed(failure)) = steps(&workspace, request, &mut reader, &mut writer).await {
        let _ = writer.send(Frame::control(&FromSync::Failed(failure))).await;
    }
    let _ = writer.close().await;
    let all = Arc::clone(workspaces);
    let restored = blocking(&workspace, (), move |workspace, ()| {
        all.restore_reserve(workspace);
        Ok(())
    });
    let _ = restored.await;
}

/// Why a sync ends early.
enum End {
    Failed(AgentFailure),
    /// Conflicts were reported, or the client is gone.
    Over,
}

impl From<AgentFailure> for End {
    fn from(failure: AgentFailure) -> Self {
        End::Failed(failure)
    }
}

impl From<FrameError> for End {
    fn from(_: FrameError) -> Self {
        End::Over
    }
}

async fn steps(
    workspace: &Arc<Workspace>,
    request: SyncRequest,
    reader: &mut Reader,
    writer: &mut Writer,
) -> Result<(), End> {
    // A host that slept leaves its guest with an old clock, which breaks signatures, TLS and make.
    set_clock(request.clock_ns);
    let begin = |workspace: &Workspace, request| {
        if let Some(reserve) = workspace.reserve() {
            reserve.spend();
        }
        workspace.begin(&request)
    };
    let begun = match blocking(workspace, request.clone(), begin).await {
        Ok(begun) => begun,
        Err(failure) => {
            writer.send(Frame::control(&AgentReply::<Begun>::Error(failure))).await?;
            return Err(End::Over);
        }
    };
    let (mode, seed) = (begun.mode, begun.seed);
    if mode != Mode::Initial {
        workspace.bind_alias(&request);
    }
    writer.send(Frame::control(&AgentReply::Ok(begun))).await?;

    let (mut items, policy) = receive_plan(reader).await?;
    let (records, place) = {
        let held = workspace.held();
        (held.records.clone().unwrap_or_default(), held.place.clone())
    };
    if mode == Mode::Complete {
        add_deletions(&mut items, &records);
    }
    let comparison = if mode == Mode::Initial {
        Comparison::default()
    } else {
        let plan = (records, place.clone(), items);
        let (compared, back) = blocking(workspace, plan, move |_, (records, place, items)| {
            let compared = compare(&place.root(), &records, &items, policy);
            Ok((compared.map_err(|error| failure("compare", &place.settings.root, &error))?, items))
        })
        .await?;
        items = back;
        compared
    };
    report(&comparison, writer).await?;
    if policy == Policy::Stop && !comparison.conflicts.is_empty() {
        return Err(End::Over);
    }

    let staged = if seed {
        receive_commit(reader).await?;
        blocking(workspace, (), |workspace, ()| workspace.take_seed()).await?
    } else {
        receive_contents(workspace, &place, reader).await?
    };
    let generation = request.generation.clone();
    let applied = blocking(workspace, (staged, items, comparison), move |workspace, (staged, items, comparison)| {
        workspace.apply(mode, &generation, staged, &items, comparison, policy)
    })
    .await?;
    if mode == Mode::Initial {
        workspace.bind_alias(&request);
    }
    writer.send(Frame::control(&FromSync::Applied(applied))).await?;
    Ok(())
}

async fn receive_plan(reader: &mut Reader) -> Result<(Vec<Item>, Policy), End> {
    let mut items = Vec::new();
    loop {
        match reader.next().await.ok_or(End::Over)?? {
            Frame::Data(PLAN, batch) => {
                let bad = |_| AgentFailure::new(AgentFailureKind::BadRequest, "a plan's batch is not understood");
                items.extend(postcard::from_bytes::<Vec<Item>>(&batch).map_err(bad)?);
                if items.len() > MAX_ITEMS || !items.iter().all(|item| tree::is_plain(&item.path)) {
                    return Err(AgentFailure::new(
                        AgentFailureKind::BadRequest,
                        "the plan is too long, or leaves its root",
                    )
                    .into());
                }
            }
            frame => match frame.message()? {
                ToSync::PlanEnds { policy } => return Ok((items, policy)),
                ToSync::Commit => return Err(End::Over),
            },
        }
    }
}

/// In a complete plan, what is not named was deleted on the host.
fn add_deletions(items: &mut Vec<Item>, records: &Records) {
    let named: std::collections::HashSet<_> = items.iter().map(|item| (&item.path[..], reference(item))).collect();
    let files = records.files.iter().filter(|(path, _)| !named.contains(&(&path[..], None)));
    let files =
        files.map(|(path, known)| Item { path: path.clone(), change: Change::Delete { base: Some(known.digest) } });
    let gone = records.references.iter().filter(|((path, name), _)| !named.contains(&(&path[..], Some(&name[..]))));
    let gone = gone.map(|((path, name), value)| Item {
        path: path.clone(),
        change: Change::Ref { name: name.clone(), base: Some(value.clone()), new: None },
    });
    let more: Vec<_> = files.chain(gone).collect();
    items.extend(more);
}

pub(super) fn reference(item: &Item) -> Option<&str> {
    match &item.change {
        Change::Ref { name, .. } => Some(name),
        _ => None,
    }
}

/// Tells the host what is needed and what is in conflict.
async fn report(comparison: &Comparison, writer: &mut Writer) -> Result<(), FrameError> {
    let needed = comparison.decisions.iter().enumerate().filter(|(_, decision)| **decision == Decision::Put);
    let numbers: Vec<u8> = needed.flat_map(|(number, _)| (number as u32).to_le_bytes()).collect();
    for chunk in numbers.chunks(MAX_DATA) {
        writer.feed(Frame::Data(NEEDED, Bytes::copy_from_slice(chunk))).await?;
    }
    let conflicts = comparison.conflicts.iter().take(MAX_NAMED).cloned().collect();
    let conflict_count = comparison.conflicts.len() as u64;
    let now_ns = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos() as i64);
    writer.send(Frame::control(&FromSync::Compared { conflicts, conflict_count, now_ns })).await
}

/// Waits until the host has written the workspace's disk.
async fn receive_commit(reader: &mut Reader) -> Result<(), End> {
    match reader.next().await.ok_or(End::Over)??.message()? {
        ToSync::Commit => Ok(()),
        ToSync::PlanEnds { .. } => Err(End::Over),
    }
}

/// Passes the contents on to a thread that stages them, until the host commits.
async fn receive_contents(
    workspace: &Arc<Workspace>,
    place: &WorkspaceMount,
    reader: &mut Reader,
) -> Result<Staged, End> {
    let (chunks, receiver) = mpsc::channel::<Bytes>(16);
    let (stage, root) = (place.stage(), place.settings.root.clone());
    let staging = blocking(workspace, (), move |_, ()| {
        Staged::receive(&stage, Contents::new(receiver)).map_err(|error| {
            // It may be what fills the disk.
            let _ = remove_folder(&stage);
            failure("stage files for", &root, &error)
        })
    });
    let receiving = async {
        loop {
            match reader.next().await.ok_or(End::Over)?? {
                // Once staging has failed, what is still coming is taken all the same: the host
                // reads no answer before it has sent all.
                Frame::Data(CONTENT, chunk) => _ = chunks.send(chunk).await,
                Frame::Data(..) => return Err(End::Over),
                frame => match frame.message()? {
                    ToSync::Commit => {
                        drop(chunks);
                        return Ok(());
                    }
                    ToSync::PlanEnds { .. } => return Err(End::Over),
                },
            }
        }
    };
    let (staged, received) = tokio::join!(staging, receiving);
    received?;
    Ok(staged?)
}
async fn blocking<A: Send + 'static, B: Send + 'static>(
    workspace: &Arc<Workspace>,
    argument: A,
    work: impl FnOnce(&Workspace, A) -> Result<B, AgentFailure> + Send + 'static,
) -> Result<B, AgentFailure> {
    let workspace = Arc::clone(workspace);
    let done = tokio::task::spawn_blocking(move || work(&workspace, argument)).await;
    done.unwrap_or_else(|error| Err(broken(&error)))
}

fn broken(error: &tokio::task::JoinError) -> AgentFailure {
    AgentFailure::new(AgentFailureKind::Other, format!("the agent failed: {error}"))
}

/// An error in the guest's tree, in words.
pub(super) fn failure(what: &str, path: &protocol::WireBytes, error: &io::Error) -> AgentFailure {
    let full = matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT));
    let kind = if full { AgentFailureKind::NoSpace } else { AgentFailureKind::Other };
    AgentFailure::new(kind, format!("cannot {what} `{path}` in the guest: {error}"))
}
