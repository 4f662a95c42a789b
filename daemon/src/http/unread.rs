//! A socket whose peer must read and must stay: a client that leaves its answer unread holds a connection, its buffers and
//! perhaps a finished generation, and nothing above the socket would ever be polled again to notice. Nor does hyper look
//! whether the peer is still there once it has read anything behind the request that it answers: a line break or the next
//! request is enough.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, Sleep},
};

/// Sees that the peer of a socket has closed it, whatever of what it sent is still unread.
pub(crate) struct Presence(Arc<OwnedReadHalf>);

impl Presence {
    /// Resolves when the peer sends nothing more.
    pub(crate) async fn ended(self) {
        // Readiness for urgent data is that for the end of the stream too, and unlike that for reading it is not there as
        // long as anything is unread. Urgent data itself is never asked for.
        while self.0.ready(Interest::PRIORITY).await.is_ok_and(|ready| !ready.is_read_closed()) {}
    }
}

/// The socket, and how long it may refuse to take a byte.
pub(crate) struct ReadersOnly {
    reader: Arc<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    patience: Duration,
    /// Armed while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ReadersOnly {
    /// Writes fail once none could make progress for `patience`.
    pub(crate) fn new(socket: TcpStream, patience: Duration) -> ReadersOnly {
        let (reader, writer) = socket.into_split();
        ReadersOnly { reader: Arc::new(reader), writer, patience, deadline: None }
    }

    /// Sees the peer leave.
    pub(crate) fn presence(&self) -> Presence {
        Presence(Arc::clone(&self.reader))
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let patience = self.patience;
        let deadline =
            self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for ReadersOnly {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.reader.as_ref().as_ref().poll_read_ready(cx))?;
            match self.reader.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for ReadersOnly {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.writer).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.writer).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.writer).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net};

    use tokio::{io::AsyncReadExt, net::TcpListener, time::timeout};

    use super::*;

    /// Goal: a peer is seen to leave although what it sent was not read, and not before. Method: a socket of which half is
    /// read; its peer stays, then leaves.
    #[tokio::test]
    async fn a_peer_is_seen_to_leave_behind_what_is_unread() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        peer.write_all(b"abcd").unwrap();
        let mut socket = ReadersOnly::new(socket, Duration::from_secs(9));
        let mut half = [0; 2];
        socket.read_exact(&mut half).await.unwrap();
        assert_eq!(&half, b"ab");
        let stays = timeout(Duration::from_millis(50), socket.presence().ended()).await;
        assert!(stays.is_err(), "it is still there");
        drop(peer);
        timeout(Duration::from_secs(9), socket.presence().ended()).await.expect("it has left");
        socket.read_exact(&mut half).await.unwrap();
        assert_eq!(&half, b"cd", "what it sent is not lost");
        assert_eq!(socket.read(&mut half).await.unwrap(), 0);
    }
}
