//! Connections: how many, how slow, and how they end.
//!
//! axum's own `serve` has neither a limit of connections nor a time for headers, so the accept loop is ours: a permit per
//! connection is taken before `accept`, so that a flood waits in the kernel's queue instead of in our memory.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tower::ServiceExt;

use super::unread::{Presence, ReadersOnly};

/// How much more than the headers of one request fits in hyper's buffer. What is a little too long reaches
/// [`header_limit`](super::header_limit) this way, which is exact and answers in our shape.
const HEADER_SLACK_BYTES: usize = 8 << 10;
/// How much longer than its client a connection lives, at most. hyper ends one by itself as soon as it reads that the client
/// has left; this is for those where it does not, and long enough for requests that were sent whole before a goodbye and are
/// answered at once.
const FAREWELL: Duration = Duration::from_secs(1);

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// For the headers of one request; also what an idle connection gets.
    pub(crate) header_timeout: Duration,
    /// For a client to read something of what is sent to it.
    pub(crate) write_timeout: Duration,
    /// Bytes of the start line and headers of one request; far beyond it hyper answers 431 by itself.
    pub(crate) header_bytes_max: usize,
    /// Headers of one request.
    pub(crate) headers_max: usize,
}

impl ConnectionLimits {
    /// As configured.
    pub(crate) fn new(daemon: &config::Daemon) -> ConnectionLimits {
        ConnectionLimits {
            connections_max: daemon.connections_max,
            header_timeout: Duration::from_secs(daemon.header_timeout_s),
            write_timeout: Duration::from_secs(daemon.write_timeout_s),
            header_bytes_max: daemon.header_bytes_max,
            headers_max: daemon.headers_max,
        }
    }
}

/// Accepts until `stop` turns true; then finishes what runs, each connection after its current request.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let permits_max = u32::try_from(limits.connections_max).expect("the config bounds connections");
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            () = stopped(&mut stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        match accepted {
            Ok((socket, peer)) => {
                tokio::spawn(connection(socket, peer, app.clone(), limits, stop.clone(), permit));
            }
            // Out of file descriptors, most likely: breathe, and the connections that end will free some.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let _all_ended = permits.acquire_many(permits_max).await;
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    app: Router,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    // A token is a small write; Nagle would hold it back for the acknowledgement of the last one.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        app.clone().oneshot(request.map(axum::body::Body::new) as Request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder.max_buf_size(limits.header_bytes_max + HEADER_SLACK_BYTES).max_headers(limits.headers_max);
    let socket = ReadersOnly::new(socket, limits.write_timeout);
    let presence = socket.presence();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    tokio::select! {
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a connection broke");
            }
        }
        // Dropping the connection drops what it answers, and with it the work.
        () = left(presence) => tracing::debug!(%peer, "a client left"),
    }
}

/// Resolves some time after the client has closed its end.
async fn left(presence: Presence) {
    presence.ended().await;
    tokio::time::sleep(FAREWELL).await;
}

/// Resolves when `stop` is true, or when nobody is left who could make it so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
