//! Waiting for a container's end.

use longshore_model::Result;

use crate::{
    Engine,
    api::{WaitCondition, WaitResult},
};

impl Engine {
    /// Looks the container up at once (a 404 comes before the response starts); the future resolves at the condition.
    ///
    /// # Errors
    /// 404.
    pub fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = WaitResult> + Send + 'static> {
        let handle = self.inner.containers.find(name)?;
        let mut view = handle.view.clone();
        let exits = view.borrow().exits;
        Ok(async move {
            let reached = view
                .wait_for(|snapshot| match condition {
                    // An end counts, also one that a restart policy does not leave at that: as in dockerd.
                    WaitCondition::NotRunning => {
                        snapshot.removed || !snapshot.state.phase.is_up() || snapshot.exits > exits
                    }
                    WaitCondition::NextExit => snapshot.removed || snapshot.exits > exits,
                    WaitCondition::Removed => snapshot.removed,
                })
                .await
                .map(|snapshot| snapshot.clone());
            // The sender is gone only after its last snapshot, the removed one.
            let last = reached.unwrap_or_else(|_| view.borrow().clone());
            let error = (!last.state.error.is_empty() && last.state.started_at.is_zero())
                .then(|| last.state.error.clone());
            WaitResult {
                exit_code: i64::from(last.state.exit_code),
                error: error.filter(|_| condition == WaitCondition::NotRunning),
            }
        })
    }
}
