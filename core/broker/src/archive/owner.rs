//! What a topic's former owner does once another cluster has restored it: nothing. Its archive is
//! that cluster's to describe and to remove.

use millstream_tiered::{ArchivedTopic, ConfigMap, Store, TopicError};

use super::Archives;

impl Archives {
    /// Writes a topic's config beside its objects, if they are this cluster's.
    pub(super) async fn put_config(
        &self,
        topic: &ArchivedTopic,
        store: &Store,
        config: &ConfigMap,
    ) -> Result<(), TopicError> {
        let written = topic.write_config(store, self.cluster, config).await;
        unless_taken_over(topic, written.map(drop))
    }

    /// Removes what the store has of a deleted topic, if it is this cluster's. Returns how many
    /// objects went.
    pub(super) async fn remove_objects(
        &self,
        topic: &ArchivedTopic,
        store: &Store,
    ) -> Result<usize, TopicError> {
        unless_taken_over(topic, topic.remove(store, self.cluster).await)
    }
}

fn unless_taken_over<T: Default>(
    topic: &ArchivedTopic,
    done: Result<T, TopicError>,
) -> Result<T, TopicError> {
    match done {
        Err(error @ TopicError::TakenOver { .. }) => {
            tracing::warn!(topic = %topic.topic, %error, "its archive is left as it is");
            Ok(T::default())
        }
        done => done,
    }
}
