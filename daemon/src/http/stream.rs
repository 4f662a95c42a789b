//! Server-sent events, polled straight out of the engine's channel: no task in between, so nothing outlives the connection.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::Frame;
use policy::engine::Event;
use tokio::time::Sleep;

use super::{
    answer::{Assembly, Part, Shape},
    computing,
    error::ApiError,
    generation::Generation,
};

/// Silence after which a comment tells proxies and clients that the stream lives (a long prefill, a full queue).
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Bytes after which ready events are sent on instead of gathered.
const FRAME_BYTES: usize = 16 * 1024;

/// The body of a streamed answer.
pub(crate) struct EventStream<S> {
    generation: Generation,
    assembly: Assembly,
    shape: S,
    silence: Pin<Box<Sleep>>,
    is_over: bool,
    known: Option<Known>,
}

/// What is told in a row of events, all known before the first of them is sent: the number of the next one.
#[derive(Clone, Copy)]
enum Known {
    Opening(u32),
    Prompt(usize, u32),
}

impl<S: Shape> EventStream<S> {
    /// A stream that begins with the shape's opening.
    pub(crate) fn new(generation: Generation, assembly: Assembly, shape: S) -> EventStream<S> {
        let silence = Box::pin(tokio::time::sleep(KEEP_ALIVE));
        EventStream { generation, assembly, shape, silence, is_over: false, known: Some(Known::Opening(0)) }
    }

    /// Writes every event that is ready, until the frame is full.
    fn gather(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) {
        while !self.is_over && out.len() < FRAME_BYTES {
            if self.known.is_some() {
                // A long prompt is told for as long as somebody reads it.
                if let Poll::Ready(error) = self.generation.poll_deadline(cx) {
                    return self.end_with(&error, out);
                }
                computing(self.shape.whole_bytes_min(), || self.tell_known(out));
                continue;
            }
            match self.generation.poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(event))) => self.take(event, out),
                Poll::Ready(Some(Err(error))) => self.end_with(&error, out),
                Poll::Ready(None) => self.end(out),
            }
        }
    }

    /// Makes and writes events of what is known, one at a time, until there are no more or the frame is full.
    fn tell_known(&mut self, out: &mut BytesMut) {
        while out.len() < FRAME_BYTES
            && let Some(known) = self.known
        {
            let (event, next) = match known {
                Known::Opening(number) => (self.shape.opening(number), Known::Opening(number + 1)),
                Known::Prompt(prompt, number) => {
                    (self.shape.prompt_chunk(prompt, number), Known::Prompt(prompt, number + 1))
                }
            };
            self.known = event.as_ref().map(|_| next);
            event.iter().for_each(|event| write(out, event));
        }
    }

    fn take(&mut self, event: Event, out: &mut BytesMut) {
        match self.assembly.part(event, &mut self.generation.deposit) {
            Part::Piece(piece) => {
                self.shape.count(&piece);
                if !piece.is_silent() {
                    let is_last = self.generation.is_over() && !self.assembly.include_usage();
                    let timings = if is_last { self.assembly.totals().timings } else { None };
                    write(out, &self.shape.chunk(piece, timings));
                }
            }
            Part::Prompt(scores) => {
                self.known = Some(Known::Prompt(scores.prompt, 0));
                self.shape.keep_prompt(scores);
            }
        }
    }

    fn end(&mut self, out: &mut BytesMut) {
        if self.assembly.include_usage() {
            write(out, &self.shape.usage_chunk(self.assembly.totals()));
        }
        write(out, "[DONE]");
        self.is_over = true;
    }

    /// The status is long sent, so the error is an event; OpenAI's clients raise on it.
    fn end_with(&mut self, error: &ApiError, out: &mut BytesMut) {
        self.generation.count(error);
        write(out, &error.json());
        self.is_over = true;
    }
}

fn write(out: &mut BytesMut, event: &str) {
    out.put_slice(b"data: ");
    out.put_slice(event.as_bytes());
    out.put_slice(b"\n\n");
}

impl<S: Shape> http_body::Body for EventStream<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let mut out = BytesMut::new();
        self.gather(cx, &mut out);
        if out.is_empty() {
            if self.silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            out.put_slice(b": still here\n\n");
        }
        self.silence.as_mut().reset(tokio::time::Instant::now() + KEEP_ALIVE);
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}
