//! How requests end: cancelled wherever they are, finished, or failed.

use std::{rc::Rc, sync::atomic::Ordering};

use crate::{
    engine::{
        Failure,
        exchange::Exchange,
        worker::{Work, Worker},
    },
    log_prob::LogProb,
    rollout::FinishReason,
};

impl Worker<'_> {
    /// Ends every request whose client has gone, wherever it is.
    pub(super) fn sweep_cancelled(&mut self) {
        for i in 0..self.slots.len() {
            if matches!(&self.slots[i].work, Some(Work::Answer(sequence)) if sequence.exchange.is_cancelled()) {
                self.finish(i, FinishReason::Cancelled);
            }
        }
        self.drop_waiting(FinishReason::Cancelled, |exchange| exchange.is_cancelled());
    }

    pub(super) fn cancel_all(&mut self) {
        for i in 0..self.slots.len() {
            if matches!(self.slots[i].work, Some(Work::Answer(_))) {
                self.finish(i, FinishReason::Cancelled);
            }
        }
        self.drop_waiting(FinishReason::Cancelled, |_| true);
    }

    /// Ends what waits for a slot and is `over`: choices without a token each get their `Finished`, unless the request
    /// failed.
    pub(super) fn drop_waiting(&mut self, reason: FinishReason, over: impl Fn(&Exchange) -> bool) {
        for exchange in self.queue.take_out(over) {
            exchange.leave_queue();
            exchange.finish_unstarted(reason, self.setup.version, &self.counters);
        }
    }

    /// Ends the response in slot `i`; its cache stays for the next prompt that begins alike.
    pub(super) fn finish(&mut self, i: usize, reason: FinishReason) {
        if let Some(Work::Answer(sequence)) = self.slots[i].work.take() {
            // Whoever is told of the end finds it in the gauge.
            self.publish_load();
            sequence.finish(reason, self.setup.version, &self.counters);
        }
    }

    /// Ends a request that wanted its prompt scored and nothing drawn, once that is done; its other choices, which wait for
    /// a row that never comes, with it.
    pub(super) fn finish_if_prompt_only(&mut self, i: usize) {
        let Some(Work::Answer(sequence)) = &mut self.slots[i].work else {
            return;
        };
        if !sequence.exchange.job.request.is_prompt_only() {
            return;
        }
        sequence.send_prompt_scores();
        let exchange = Rc::clone(&sequence.exchange);
        self.finish(i, FinishReason::ClientLimit);
        self.drop_waiting(FinishReason::ClientLimit, |other| std::ptr::eq(other, Rc::as_ptr(&exchange)));
    }

    /// Ends a whole request as failed: its other choices leave their slots, its waiting ones their list.
    pub(super) fn fail(&mut self, exchange: &Rc<Exchange>, failure: Failure) {
        let (version, request) = (self.setup.version, &exchange.job.request.id);
        match &failure {
            Failure::Engine(reason) => tracing::error!(%version, request, reason, "a request failed"),
            Failure::Grammar(reason) => tracing::info!(%version, request, reason, "a grammar could not be followed"),
        }
        exchange.fail(failure, &self.counters);
        for i in 0..self.slots.len() {
            if matches!(&self.slots[i].work, Some(Work::Answer(other)) if Rc::ptr_eq(&other.exchange, exchange)) {
                self.slots[i].work = None;
                self.cells.clear(i);
            }
        }
        self.drop_waiting(FinishReason::Cancelled, |other| other.failed.get());
    }

    /// Answers a scoring.
    pub(super) fn reply(&mut self, i: usize, answer: Result<Vec<LogProb>, String>) {
        if let Some(Work::Score { job, .. }) = self.slots[i].work.take() {
            self.end_aside();
            // A caller that gave up is no failure.
            drop(job.reply.send(answer));
        }
    }

    /// What was no request has left its slot.
    pub(super) fn end_aside(&mut self) {
        self.load.scoring.fetch_sub(1, Ordering::AcqRel);
        self.publish_load();
    }
}
