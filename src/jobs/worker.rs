//! The one thread that draws, away from the threads that serve.

use super::{Job, Queue};
use crate::pipeline::{Notice, Picture, Pipeline};
use crate::{Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

/// Draws a claimed job. The pipeline does; tests put something simpler in its place.
pub trait Draw: Send + Sync {
    /// The pictures and what to know about them. Calls [`Job::on_step`] after each step.
    fn draw(&self, job: &Job) -> Result<(Vec<Picture>, Vec<Notice>)>;
}

impl Draw for Pipeline {
    fn draw(&self, job: &Job) -> Result<(Vec<Picture>, Vec<Notice>)> {
        let pictures = self.generate(&job.plan, &mut |progress| job.on_step(progress))?;
        Ok((pictures, self.notices(&job.plan)?))
    }
}

/// The running thread.
pub struct Worker {
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts a thread that draws until the queue is closed.
    pub fn start(queue: Queue, artist: Arc<dyn Draw>) -> Result<Self> {
        let work = move || {
            while let Some(job) = queue.claim() {
                let began = Instant::now();
                let outcome = guarded(&*artist, &job);
                log(&job, &outcome, began);
                queue.complete(job, began, outcome);
            }
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(work);
        let thread =
            thread.map_err(|error| Error::Server(format!("the worker thread could not be started: {error}")))?;
        Ok(Self { thread })
    }

    /// Whether the thread is still there.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for the end of the thread, which comes after [`Queue::close`].
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// A panic is a bug, but it must cost one job and not the server.
fn guarded(artist: &dyn Draw, job: &Job) -> Result<(Vec<Picture>, Vec<Notice>)> {
    catch_unwind(AssertUnwindSafe(|| artist.draw(job)))
        .unwrap_or_else(|_| Err(Error::Server("the worker panicked while drawing".into())))
}

fn log(job: &Job, outcome: &Result<(Vec<Picture>, Vec<Notice>)>, began: Instant) {
    let (seconds, count, steps) = (began.elapsed().as_secs_f32(), job.plan.count, job.plan.steps);
    match outcome {
        Ok(_) => tracing::info!(seconds, count, steps, "drew"),
        Err(Error::Cancelled) => tracing::info!(seconds, "cancelled"),
        Err(error) => tracing::error!(seconds, %error, "failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Progress;
    use crate::request::{Facts, GenerateRequest, Plan};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Takes `plan.steps` steps without drawing anything. Panics at guidance 13.
    #[derive(Default)]
    struct Sleeper {
        steps: AtomicUsize,
    }

    impl Draw for Sleeper {
        fn draw(&self, job: &Job) -> Result<(Vec<Picture>, Vec<Notice>)> {
            assert!(job.plan.guidance != 13.0, "unlucky");
            for step in 1..=job.plan.steps {
                std::thread::sleep(std::time::Duration::from_millis(1));
                self.steps.fetch_add(1, Ordering::Relaxed);
                let steps = job.plan.steps;
                job.on_step(&Progress { picture: 0, pictures: 1, step, steps, sigma: 1.0, estimate: None })?;
            }
            Ok((Vec::new(), Vec::new()))
        }
    }

    fn plan(steps: usize, guidance: f64) -> Plan {
        let facts = Facts { name: "x".into(), multiple_of: 8, width: 8, height: 8, steps, guidance, times: 1000 };
        Plan::new(&GenerateRequest { prompt: Some(String::new()), ..Default::default() }, &facts).unwrap()
    }

    fn started(limit: usize) -> (Queue, Arc<Sleeper>, Worker) {
        let (queue, sleeper) = (Queue::new(limit), Arc::new(Sleeper::default()));
        let worker = Worker::start(queue.clone(), sleeper.clone()).unwrap();
        (queue, sleeper, worker)
    }

    #[tokio::test]
    async fn jobs_are_drawn_and_a_full_queue_says_when_to_come_back() {
        let (queue, _, worker) = started(1);
        let first = queue.submit(plan(1000, 1.0)).unwrap();
        while queue.status().running.is_none() {
            tokio::task::yield_now().await;
        }
        let second = queue.submit(plan(1, 1.0)).unwrap();
        assert!(matches!(queue.submit(plan(1, 1.0)), Err(Error::Overloaded { retry_after_seconds: 1.. })));
        drop(first);
        assert!(second.result().await.is_ok());
        queue.close();
        worker.join();
        assert!(matches!(queue.submit(plan(1, 1.0)), Err(Error::ShuttingDown)));
    }

    #[tokio::test]
    async fn a_client_that_leaves_stops_its_job_within_one_step() {
        let (queue, sleeper, _worker) = started(4);
        let ticket = queue.submit(plan(1000, 1.0)).unwrap();
        while sleeper.steps.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        drop(ticket);
        let at_cancel = sleeper.steps.load(Ordering::Relaxed);
        while queue.status().running.is_some() {
            tokio::task::yield_now().await;
        }
        assert!(sleeper.steps.load(Ordering::Relaxed) <= at_cancel + 1);
    }

    #[tokio::test]
    async fn a_panic_costs_one_job() {
        let (queue, _, worker) = started(4);
        assert!(matches!(queue.submit(plan(1, 13.0)).unwrap().result().await, Err(Error::Server(_))));
        assert!(queue.submit(plan(1, 1.0)).unwrap().result().await.is_ok());
        assert!(worker.is_alive());
    }

    #[tokio::test]
    async fn closing_turns_waiting_jobs_away_and_lets_the_running_one_finish() {
        let (queue, _, worker) = started(4);
        let running = queue.submit(plan(50, 1.0)).unwrap();
        while queue.status().running.is_none() {
            tokio::task::yield_now().await;
        }
        let waiting = queue.submit(plan(1, 1.0)).unwrap();
        queue.close();
        assert!(matches!(waiting.result().await, Err(Error::ShuttingDown)));
        assert!(running.result().await.is_ok());
        worker.join();
    }
}
