//! Answers from the writer's thread to the tasks that wait for them.
//!
//! To wake a task of another thread's runtime is a system call. So each runtime is given the answers of a group in one piece,
//! and wakes its own tasks.

use tokio::{runtime::Handle, sync::oneshot};

use super::Failure;

/// What became of a fact.
pub(super) type Outcome = Result<(), Failure>;

/// Where the answer for one fact goes.
pub(super) struct Reply {
    to: oneshot::Sender<Outcome>,
    runtime: Handle,
}

impl Reply {
    /// Made by the task that will wait for the answer, on its runtime.
    pub(super) fn channel() -> (Self, oneshot::Receiver<Outcome>) {
        let (to, answer) = oneshot::channel();
        let runtime = Handle::current();
        (Self { to, runtime }, answer)
    }
}

/// The answers of a group, given out when this is dropped.
#[derive(Default)]
pub(super) struct Replies(Vec<(Handle, Parcel)>);

impl Replies {
    /// The fact goes along only to be freed where it was made: memory that moves from thread to thread is dear.
    pub(super) fn add(&mut self, reply: Reply, outcome: Outcome, fact: Vec<u8>) {
        let Reply { to, runtime } = reply;
        let answer = (to, outcome, fact);
        let id = runtime.id();
        // There are as many runtimes as processors, and one more.
        match self.0.iter_mut().find(|(runtime, _)| runtime.id() == id) {
            Some((_, parcel)) => parcel.0.push(answer),
            None => self.0.push((runtime, Parcel(vec![answer]))),
        }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        for (runtime, parcel) in self.0.drain(..) {
            // One answer is one call in either way. A runtime that has ended drops the task, which gives them out too.
            if parcel.0.len() > 1 {
                runtime.spawn(async move { drop(parcel) });
            }
        }
    }
}

/// The answers for one runtime, given out when this is dropped, wherever that is.
struct Parcel(Vec<(oneshot::Sender<Outcome>, Outcome, Vec<u8>)>);

impl Drop for Parcel {
    fn drop(&mut self) {
        for (to, outcome, _) in self.0.drain(..) {
            // Nobody listening means that the client is gone; the fact is in the spool all the same.
            let _ = to.send(outcome);
        }
    }
}
