//! What may stand between the services and their database, so that the same tests run over all of it.

use std::sync::Arc;

use super::{PgBouncer, PrivatePostgres};

/// Whose connections PgBouncer lends.
const RECORDER: &str = "email_tracker_recorder";
/// Who reads at the standby.
const DASHBOARD: &str = "email_tracker_dashboard";

/// The routes of the services' roles, by the environment's `TEST_TOPOLOGY`: `direct` (the default), `pooled` (the recorder
/// through PgBouncer in transaction mode), `replica` (the dashboard on a hot standby), or `pooled,replica`.
#[derive(Clone, Debug, Default)]
pub(super) struct Topology {
    pooler: Option<Arc<PgBouncer>>,
    standby: Option<Box<PrivatePostgres>>,
}

impl Topology {
    /// As the environment asks for, around `server`, whose template is migrated already.
    pub(super) async fn of_environment(server: &PrivatePostgres) -> Self {
        let mut topology = Self::default();
        let asked = std::env::var_os("TEST_TOPOLOGY").unwrap_or_default();
        let asked = asked.into_string().expect("TEST_TOPOLOGY is text");
        for part in asked.split(',') {
            match part {
                "" | "direct" => {}
                "pooled" => topology.pooler = Some(Arc::new(server.pooled(&[RECORDER], &[]).await)),
                "replica" => {
                    let standby = server.standby_with(&["hot_standby_feedback=on"]).await;
                    server.commits_wait_until_applied().await;
                    topology.standby = Some(Box::new(standby));
                }
                other => {
                    panic!("TEST_TOPOLOGY: {other} is none of direct, pooled, replica")
                }
            }
        }
        topology
    }

    /// The server that `role`'s sessions are on, if it is not the primary.
    pub(super) fn server_of(&self, role: &str) -> Option<&PrivatePostgres> {
        self.standby.as_deref().filter(|_| role == DASHBOARD)
    }

    /// The URL of `role` at the database `name`, if it is not the primary's.
    pub(super) fn url_of(&self, role: &str, name: &str) -> Option<String> {
        if role == RECORDER
            && let Some(pooler) = &self.pooler
        {
            return Some(pooler.url_of(role, name));
        }
        self.server_of(role).map(|standby| standby.url_of(role, name))
    }
}
