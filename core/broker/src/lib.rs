//! A broker: the machines of the other crates joined to disk, clock and network. It decides
//! nothing of its own; it holds the config, the data directory, the partitions and the tasks.

mod admin;
mod archive;
mod certificates;
mod config;
mod directory;
mod fence;
mod files;
mod handle;
mod ids;
mod offsets;
mod partitions;
mod produce;
mod read_memory;
mod replies;
mod run;
mod service;
mod stats;
mod subscription;

#[cfg(fuzzing)]
pub use directory::fuzz as fuzz_identity;

pub use certificates::CertificateError;
pub use config::{
    BrokerConfig, BrokerSection, ConfigError, ENV_PREFIX, LimitsSection, ListenSection,
    StorageSection, TlsSection,
};
pub use directory::DirectoryError;
pub use run::{Ready, RunError, run};
