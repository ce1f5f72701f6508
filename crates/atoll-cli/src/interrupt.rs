//! Ctrl-C and SIGTERM: the work is cancelled, children end, and the exit code says why.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::{Exit, Failure};

/// Tells when the user wants the command to end.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    asked: watch::Receiver<Option<Exit>>,
    tell: watch::Sender<Option<Exit>>,
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Listens to both signals from now on. A second one ends the process at once.
    ///
    /// # Errors
    /// The system's, if it has no such signals.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let fail = |error: std::io::Error| {
            Failure::new(Exit::Failure, "cannot listen to signals").because(error)
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let (tell, asked) = watch::channel(None);
        let flag = Arc::new(AtomicBool::new(false));
        let stop = Self { asked, tell: tell.clone(), flag: Arc::clone(&flag) };
        tokio::spawn(async move {
            loop {
                let exit = tokio::select! {
                    _ = interrupt.recv() => Exit::Interrupted,
                    _ = terminate.recv() => Exit::Terminated,
                };
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(exit.code().into());
                }
                tell.send_replace(Some(exit));
            }
        });
        Ok(stop)
    }

    /// Set once the end was asked for; for work that cannot wait on a future.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Forgets that the end was asked for: only something smaller than the command was ended.
    pub(crate) fn forgive(&self) {
        self.flag.store(false, Ordering::Relaxed);
        self.tell.send_replace(None);
    }

    /// Completes when the end is asked for.
    pub(crate) async fn asked(&self) -> Failure {
        let mut asked = self.asked.clone();
        let exit = match asked.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Interrupted),
            // The listener never ends before the process does.
            Err(_) => std::future::pending().await,
        };
        let what = if exit == Exit::Terminated { "terminated" } else { "interrupted" };
        Failure::new(exit, what)
    }

    /// `work`'s result, or the interruption if that comes first; `work` is dropped then.
    pub(crate) async fn race<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            failure = self.asked() => Err(failure),
        }
    }
}
