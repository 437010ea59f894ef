//! What the supervisor itself says to the agent: it asks what changed in the guest alone, and for
//! the power to be switched off.

use std::time::Duration;

use banger_agent::frame::{Frame, FrameCodec};
use banger_agent::link::{Mux, MuxStream};
use banger_agent::protocol::sync::GuestOnly;
use banger_agent::protocol::{self, AgentReply};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::codec::{Decoder, Encoder};

use super::blocking;
use super::state::State;
use crate::activity::LastActivity;

/// Asks what changed in the guest alone, and writes down what is known of it. False: nothing is
/// known, as when somebody has come meanwhile.
pub(super) async fn record_guest_changes(mux: Mux, state: &State, limit: Duration) -> bool {
    let found = timeout(limit, changes(&mux)).await.ok().flatten().filter(|_| !state.usage.is_touched());
    let known = found.is_some();
    let (activity, folder) = (LastActivity::now(found), state.folder.clone());
    let written = blocking(move || activity.write(&folder)).await.is_ok();
    if state.usage.is_touched() {
        // Somebody has come while it was written.
        let _ = LastActivity::forget_changes(&state.folder);
        return false;
    }
    written && known
}

/// Asks the agent to switch off. Whether it does is seen by the VMM's exit.
pub(super) async fn ask_to_shut_down(mux: Mux) {
    if let Some(mut stream) = request(&mux, &protocol::AgentRequest::Shutdown).await {
        // The stream stays open until the agent has read it.
        let _ = stream.read(&mut [0; 64]).await;
    }
}

async fn changes(mux: &Mux) -> Option<GuestOnly> {
    let mut stream = request(mux, &protocol::AgentRequest::GuestOnly).await?;
    let mut received = BytesMut::new();
    loop {
        if let Some(frame) = FrameCodec.decode(&mut received).ok()? {
            return match frame.message().ok()? {
                AgentReply::Ok(only) => Some(only),
                AgentReply::Error(_) => None,
            };
        }
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
}

/// Opens a stream with this request; none where the link is broken.
async fn request(mux: &Mux, request: &protocol::AgentRequest) -> Option<MuxStream> {
    let mut bytes = BytesMut::new();
    FrameCodec.encode(Frame::control(request), &mut bytes).ok()?;
    let mut stream = mux.open().await.ok()?;
    stream.write_all(&bytes).await.ok()?;
    stream.flush().await.ok()?;
    Some(stream)
}
