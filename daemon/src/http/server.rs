//! Connections: how many, how slow, and how they end.
//!
//! axum's own `serve` has neither a limit of connections nor a time for headers, so the accept loop is ours: a permit per
//! connection is taken before `accept`, so that a flood waits in the kernel's queue instead of in our memory.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
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
/// What a connection on which nothing was asked yet gets for its first request, once the daemon ends, and for the answer. Its
/// client may have connected a moment before, and one that is closed without a word learns less than one that is told 503.
const FIRST_WORD: Duration = Duration::from_secs(1);
/// How long is accepted what the system has accepted for us, before the port closes.
const LAST_CALL: Duration = Duration::from_millis(100);

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

/// How far the end of the daemon has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// It serves.
    No,
    /// Connections end after their current answer. New ones are still accepted, for one answer each: a probe or a client that
    /// meets a closed port learns less than one that is told 503.
    Finish,
    /// Connections end now, and with them what they were answering.
    Cut,
}

/// Accepts until it is asked to stop and all connections of before have ended.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    mut asked: watch::Receiver<Stop>,
) {
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let permits_max = u32::try_from(limits.connections_max).expect("the config bounds connections");
    let (stop, mut cut) = (watch::Sender::new(Stop::No), asked.clone());
    // Held by connections from before the end: nothing comes through it, and it is over with the last of them.
    let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
    let mut alive = Some(alive);
    let serve_one = |(socket, peer, permit), alive| {
        let life = Life { alive, stop: stop.subscribe(), _permit: permit };
        tokio::spawn(connection(socket, peer, app.clone(), limits, life));
    };
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = reached(&mut asked, Stop::Finish), if alive.is_some() => {
                alive = None;
                stop.send_replace(Stop::Finish);
                continue;
            }
            _ = all_ended.recv(), if alive.is_none() => break,
            () = reached(&mut cut, Stop::Cut) => break,
        };
        match accepted {
            Ok(accepted) => serve_one(accepted, alive.clone()),
            // Out of file descriptors, most likely: breathe, and the connections that end will free some.
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // A port that closes resets what the system has accepted for us, and who is reset cannot know what became of a request.
    let until = tokio::time::Instant::now() + LAST_CALL;
    while *cut.borrow() < Stop::Cut && tokio::time::Instant::now() < until {
        match tokio::time::timeout(Duration::ZERO, accept(&listener, &permits)).await {
            Ok(Ok(accepted)) => serve_one(accepted, None),
            Ok(Err(error)) => tracing::debug!(%error, "accept failed"),
            Err(_) => break,
        }
    }
    drop(listener);
    let all_ended = || permits.acquire_many(permits_max);
    // Those that came meanwhile have an answer at once, and end with it.
    tokio::select! {
        _ = tokio::time::timeout(FIRST_WORD, all_ended()) => {}
        () = reached(&mut cut, Stop::Cut) => {}
    }
    stop.send_replace(Stop::Cut);
    let _all_ended = all_ended().await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (socket, peer) = listener.accept().await?;
    Ok((socket, peer, permit))
}

/// What a connection holds while it lives, and what ends it.
struct Life {
    /// `None` for one that came when the daemon was ending already.
    alive: Option<mpsc::Sender<Infallible>>,
    stop: watch::Receiver<Stop>,
    _permit: OwnedSemaphorePermit,
}

async fn connection(socket: TcpStream, peer: SocketAddr, app: Router, limits: ConnectionLimits, mut life: Life) {
    // A token is a small write; Nagle would hold it back for the acknowledgement of the last one.
    let _ = socket.set_nodelay(true);
    let (asked, mut first) = watch::channel(false);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        asked.send_replace(true);
        request.extensions_mut().insert(ConnectInfo(peer));
        app.clone().oneshot(request.map(axum::body::Body::new) as Request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder.max_buf_size(limits.header_bytes_max + HEADER_SLACK_BYTES).max_headers(limits.headers_max);
    builder.keep_alive(life.alive.is_some());
    let socket = ReadersOnly::new(socket, limits.write_timeout);
    let presence = socket.presence();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
    let mut cut = life.stop.clone();
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = last_answer(&mut life.stop, &mut first), if life.alive.is_some() => {
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
        () = reached(&mut cut, Stop::Cut) => tracing::debug!(%peer, "a connection was cut"),
    }
}

/// Resolves when the answer that a connection is giving, or giving next, is its last. hyper closes what waits for a request.
async fn last_answer(stop: &mut watch::Receiver<Stop>, first: &mut watch::Receiver<bool>) {
    reached(stop, Stop::Finish).await;
    let _ = tokio::time::timeout(FIRST_WORD, first.wait_for(|asked| *asked)).await;
}

/// Resolves some time after the client has closed its end.
async fn left(presence: Presence) {
    presence.ended().await;
    tokio::time::sleep(FAREWELL).await;
}

/// Resolves when the end has come so far, or when nobody is left who could bring it there.
async fn reached(stop: &mut watch::Receiver<Stop>, stage: Stop) {
    let _ = stop.wait_for(|stop| *stop >= stage).await;
}
