//! What happens to jobs, told to whoever listens. Events are kept while their job is open, so that a listener that comes
//! late or comes again misses none.

use super::{Id, State};
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Events kept of one job. A listener that is further behind gets a snapshot instead.
const KEPT: usize = 512;
/// Time between previews: looking costs drawing time.
const PREVIEW_EVERY: Duration = Duration::from_millis(400);

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// Its place in the queue changed.
    Queued {
        /// 1 is the next.
        position: usize,
        /// Until it begins, by what steps took lately.
        eta_seconds: f64,
    },
    /// Drawing began.
    Started {
        /// For the how manieth time.
        attempt: u32,
    },
    /// Its model is being brought into memory.
    Loading {
        /// The model's name.
        model: Arc<str>,
    },
    /// A step was done.
    Step(Step),
    /// It is over. The job itself says more.
    Ended {
        /// How.
        state: State,
    },
}

/// Where a running job stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Steps done, over all pictures.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Which picture, from 0.
    pub picture: usize,
    /// How many pictures.
    pub pictures: usize,
    /// Noise that was left before the step.
    pub sigma: f64,
    /// How long steps take.
    pub seconds_per_step: f64,
    /// Until all is drawn.
    pub eta_seconds: f64,
    /// A look at the picture, as a `data:` URL; shared by all listeners.
    pub preview: Option<Arc<str>>,
}

/// An event with its number.
#[derive(Debug, Clone)]
pub struct Numbered {
    /// Counts up over all events of this process.
    pub number: u64,
    /// What happened.
    pub event: Event,
}

/// The events of all open jobs.
#[derive(Default)]
pub(super) struct Hub {
    channels: Mutex<HashMap<Id, Arc<Channel>>>,
    next: AtomicU64,
}

#[derive(Default)]
struct Channel {
    events: Mutex<VecDeque<Numbered>>,
    last: watch::Sender<u64>,
    listeners: AtomicUsize,
    previewed: Mutex<Option<Instant>>,
}

impl Hub {
    /// Tells all listeners of a job. Nothing more can be told after [`Event::Ended`].
    pub(super) fn tell(&self, job: &Id, event: Event) {
        let is_last = matches!(event, Event::Ended { .. });
        let channel = match event {
            // A place in the queue may be told when the job is over already, and an end when nobody listened.
            Event::Queued { .. } | Event::Ended { .. } => lock(&self.channels).get(job).cloned(),
            Event::Started { .. } | Event::Loading { .. } | Event::Step(_) => Some(self.channel(job)),
        };
        let Some(channel) = channel else { return };
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut events = lock(&channel.events);
        // The same place in the queue is no news.
        if events.back().is_none_or(|last| last.event != event) {
            events.push_back(Numbered { number, event });
            if events.len() > KEPT {
                events.pop_front();
            }
        }
        drop(events);
        if is_last {
            lock(&self.channels).remove(job);
        }
        channel.last.send_replace(number);
    }

    /// Whether it is time for another look at a job's picture: somebody watches, and the last one was a while ago.
    pub(super) fn wants_preview(&self, job: &Id) -> bool {
        let channel = self.channel(job);
        let mut previewed = lock(&channel.previewed);
        let due = previewed.is_none_or(|at| at.elapsed() >= PREVIEW_EVERY);
        let wanted = due && channel.listeners.load(Ordering::Relaxed) > 0;
        if wanted {
            *previewed = Some(Instant::now());
        }
        wanted
    }

    /// Listens to an open job from after event `after`, or from now.
    pub(super) fn listen(&self, job: &Id, after: Option<u64>) -> Listener {
        let channel = self.channel(job);
        channel.listeners.fetch_add(1, Ordering::Relaxed);
        let wake = channel.last.subscribe();
        let (first, last) = {
            let events = lock(&channel.events);
            (events.front().map(|e| e.number), events.back().map_or(0, |e| e.number))
        };
        let resumed = after.is_some_and(|after| first.is_some_and(|first| first <= after) && after <= last);
        Listener { channel, wake, heard: if resumed { after.unwrap_or(last) } else { last }, resumed }
    }

    /// The last step that a job was told to have done.
    pub(super) fn last_step(&self, job: &Id) -> Option<Step> {
        let channel = lock(&self.channels).get(job)?.clone();
        let events = lock(&channel.events);
        events.iter().rev().find_map(|numbered| match &numbered.event {
            Event::Step(step) => Some(step.clone()),
            _ => None,
        })
    }

    /// The model that a job waits for, if it does.
    pub(super) fn loading(&self, job: &Id) -> Option<Arc<str>> {
        let channel = lock(&self.channels).get(job)?.clone();
        let events = lock(&channel.events);
        match &events.back()?.event {
            Event::Loading { model } => Some(model.clone()),
            _ => None,
        }
    }

    /// Forgets a job that nobody told anything of.
    pub(super) fn close(&self, job: &Id) {
        lock(&self.channels).remove(job);
    }

    fn channel(&self, job: &Id) -> Arc<Channel> {
        lock(&self.channels).entry(job.clone()).or_default().clone()
    }
}

/// Somebody who hears every event of a job, in order.
pub struct Listener {
    channel: Arc<Channel>,
    wake: watch::Receiver<u64>,
    heard: u64,
    resumed: bool,
}

impl Listener {
    /// Whether listening goes on exactly where it was asked to; otherwise the listener needs to be told how things stand.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// The number of the last event before this listener's first.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// The next event.
    pub async fn next(&mut self) -> Numbered {
        loop {
            self.wake.mark_unchanged();
            let next = lock(&self.channel.events).iter().find(|e| e.number > self.heard).cloned();
            if let Some(next) = next {
                self.heard = next.number;
                return next;
            }
            if self.wake.changed().await.is_err() {
                // The sender lives in the channel, which this listener holds.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.channel.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(position: usize) -> Event {
        Event::Queued { position, eta_seconds: 0.0 }
    }

    #[tokio::test]
    async fn every_listener_hears_everything_in_order() {
        let (hub, job) = (Hub::default(), Id::random().unwrap());
        let mut listeners: Vec<Listener> = (0..500).map(|_| hub.listen(&job, None)).collect();
        for attempt in 1..=50 {
            hub.tell(&job, Event::Started { attempt });
        }
        hub.tell(&job, Event::Ended { state: State::Done });
        for listener in &mut listeners {
            for expected in 1..=50 {
                assert_eq!(listener.next().await.event, Event::Started { attempt: expected });
            }
            assert_eq!(listener.next().await.event, Event::Ended { state: State::Done });
        }
    }

    #[tokio::test]
    async fn a_listener_that_comes_again_goes_on_where_it_was() {
        let (hub, job) = (Hub::default(), Id::random().unwrap());
        let mut first = hub.listen(&job, None);
        (1..=4).rev().for_each(|position| hub.tell(&job, queued(position)));
        let (four, _) = (first.next().await, first.next().await);
        assert_eq!(four.event, queued(4));
        let mut again = hub.listen(&job, Some(first.heard()));
        assert!(again.resumed());
        assert_eq!((again.next().await.event, again.next().await.event), (queued(2), queued(1)));
        assert!(!hub.listen(&job, Some(999)).resumed());
        assert!(!hub.listen(&Id::random().unwrap(), Some(1)).resumed());
    }

    #[test]
    fn what_comes_after_the_end_keeps_nothing_open() {
        let (hub, job) = (Hub::default(), Id::random().unwrap());
        hub.tell(&job, Event::Started { attempt: 1 });
        hub.tell(&job, Event::Ended { state: State::Done });
        hub.tell(&job, queued(1));
        assert!(lock(&hub.channels).is_empty());
    }

    #[test]
    fn previews_are_made_for_listeners_only_and_not_too_often() {
        let (hub, job) = (Hub::default(), Id::random().unwrap());
        assert!(!hub.wants_preview(&job));
        let listener = hub.listen(&job, None);
        assert!(hub.wants_preview(&job) && !hub.wants_preview(&job));
        drop(listener);
    }
}
