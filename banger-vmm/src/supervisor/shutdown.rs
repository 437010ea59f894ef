//! What the supervisor itself says to the agent: it asks what changed in the guest alone, for what
//! was written to reach the disks, and for the power to be switched off.

use std::future::pending;
use std::time::Duration;

use banger_agent::frame::{Frame, FrameCodec};
use banger_agent::link::{Mux, MuxStream};
use banger_agent::protocol::sync::GuestOnly;
use banger_agent::protocol::{self, AgentReply, PowerState};
use bytes::BytesMut;
use serde::de::DeserializeOwned;
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

/// Waits until the guest says how it is about to go. Agents of earlier versions do not say it, nor
/// do guests that panic: then this never completes.
pub(super) async fn farewell(mux: Mux) -> PowerState {
    match ask(&mux, &protocol::AgentRequest::Farewell).await {
        // The stream has ended by now, which tells the guest to go.
        Some(state) => state,
        None => pending().await,
    }
}

/// Asks the agent to write out what the guest has in memory of its disks. Agents of earlier versions
/// refuse.
pub(super) async fn sync_disks(mux: Mux) {
    let _: Option<()> = ask(&mux, &protocol::AgentRequest::SyncDisks).await;
}

async fn changes(mux: &Mux) -> Option<GuestOnly> {
    ask(mux, &protocol::AgentRequest::GuestOnly).await
}

/// The answer to a request that has a single one; none where there is an error instead.
async fn ask<T: DeserializeOwned>(mux: &Mux, message: &protocol::AgentRequest) -> Option<T> {
    let mut stream = request(mux, message).await?;
    let mut received = BytesMut::new();
    loop {
        if let Some(frame) = FrameCodec.decode(&mut received).ok()? {
            return match frame.message().ok()? {
                AgentReply::Ok(answer) => Some(answer),
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

#[cfg(test)]
mod tests {
    use banger_agent::link;
    use banger_agent::protocol::{AgentFailure, AgentFailureKind};

    use super::*;

    /// What a supervisor learns from an agent that answers with `reply`.
    async fn learned(reply: AgentReply<PowerState>) -> Option<PowerState> {
        let (host, guest) = tokio::io::duplex(1 << 16);
        let (mux, driver) = Mux::host(host);
        tokio::spawn(driver);
        tokio::spawn(link::serve(guest, move |mut stream| {
            let reply = reply.clone();
            tokio::spawn(async move {
                let mut received = BytesMut::new();
                let request = loop {
                    if let Some(frame) = FrameCodec.decode(&mut received).unwrap() {
                        break frame.message().unwrap();
                    }
                    stream.read_buf(&mut received).await.unwrap();
                };
                assert!(matches!(request, protocol::AgentRequest::Farewell), "{request:?}");
                let mut bytes = BytesMut::new();
                FrameCodec.encode(Frame::control(&reply), &mut bytes).unwrap();
                stream.write_all(&bytes).await.unwrap();
                stream.flush().await.unwrap();
                // Until the host has heard it.
                let _ = stream.read(&mut [0]).await;
            });
        }));
        timeout(Duration::from_millis(200), farewell(mux)).await.ok()
    }

    #[tokio::test]
    async fn guest_that_powers_off_is_told_from_one_that_reboots() {
        for state in [PowerState::PowerOff, PowerState::Reboot] {
            assert_eq!(learned(AgentReply::Ok(state)).await, Some(state));
        }
    }

    #[tokio::test]
    async fn agent_that_knows_of_no_farewell_is_waited_for_without_end() {
        let unknown = AgentFailure::new(AgentFailureKind::BadRequest, "the agent does not understand the request");
        assert_eq!(learned(AgentReply::Error(unknown)).await, None);
    }
}
