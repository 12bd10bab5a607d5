//! What is allowed. A change here is a change of structure: it comes with one in ARCHITECTURE.md,
//! in the same commit.

/// One crate and the crates of ours that it depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edges {
    /// Package name.
    pub(crate) package: &'static str,
    /// Packages of ours in its `[dependencies]`, all of them and no other. Each has its own row
    /// above this one, which is what keeps the direction.
    pub(crate) uses: &'static [&'static str],
}

/// A dependency from outside and the packages that may name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    /// Package name on crates.io.
    pub(crate) dependency: &'static str,
    /// May have it in `[dependencies]`.
    pub(crate) homes: &'static [&'static str],
    /// May have it in `[dev-dependencies]` only.
    pub(crate) tests: &'static [&'static str],
}

/// Packages that nothing but one another depends on and that may use any crate of ours: tests and
/// measurements.
pub(crate) const LEAVES: &[&str] = &["millstream-tests", "millstream-benches", FUZZ];

/// The fuzz targets: outside the workspace, as their sanitisers need another toolchain.
pub(crate) const FUZZ: &str = "millstream-fuzz";

/// Vocabulary first, the binary last. Decisions (replica, meta) never see a disk or a socket;
/// the CLI reaches a broker only through the client; the simulator uses no front.
pub(crate) const EDGES: &[Edges] = &[
    Edges { package: "millstream-types", uses: &[] },
    Edges { package: "millstream-env", uses: &["millstream-types"] },
    Edges { package: "millstream-wire", uses: &["millstream-types"] },
    Edges { package: "millstream-replica", uses: &["millstream-types", "millstream-wire"] },
    Edges { package: "millstream-meta", uses: &["millstream-types"] },
    Edges {
        package: "millstream-log",
        uses: &["millstream-types", "millstream-env", "millstream-wire"],
    },
    Edges {
        package: "millstream-partition",
        uses: &[
            "millstream-types",
            "millstream-env",
            "millstream-wire",
            "millstream-log",
            "millstream-replica",
        ],
    },
    Edges {
        package: "millstream-tiered",
        uses: &["millstream-types", "millstream-env", "millstream-wire"],
    },
    Edges {
        package: "millstream-quorum",
        uses: &["millstream-types", "millstream-env", "millstream-meta"],
    },
    Edges { package: "millstream-service", uses: &["millstream-types", "millstream-wire"] },
    Edges {
        package: "millstream-net",
        uses: &["millstream-types", "millstream-wire", "millstream-service"],
    },
    Edges {
        package: "millstream-client",
        uses: &["millstream-types", "millstream-env", "millstream-wire", "millstream-net"],
    },
    Edges {
        package: "millstream-cli",
        // Of the metadata it uses the table of topic configs, which it prints.
        uses: &[
            "millstream-types",
            "millstream-env",
            "millstream-wire",
            "millstream-meta",
            "millstream-client",
        ],
    },
    Edges {
        package: "millstream-sim",
        uses: &[
            "millstream-types",
            "millstream-env",
            "millstream-wire",
            "millstream-log",
            "millstream-replica",
            "millstream-partition",
        ],
    },
    Edges {
        package: "millstream-broker",
        uses: &[
            "millstream-types",
            "millstream-env",
            "millstream-wire",
            "millstream-log",
            "millstream-replica",
            "millstream-partition",
            "millstream-meta",
            "millstream-quorum",
            "millstream-service",
            "millstream-net",
            "millstream-tiered",
        ],
    },
    Edges { package: "millstream", uses: &["millstream-cli", "millstream-broker"] },
    Edges { package: "millstream-plugin-abi", uses: &[] },
    Edges { package: "millstream-plugin", uses: &["millstream-types", "millstream-plugin-abi"] },
    Edges { package: "millstream-plugin-build", uses: &[] },
    Edges { package: "millstream-sdk", uses: &["millstream-plugin-abi"] },
    // Guests see what their authors see.
    Edges { package: "conformance", uses: &["millstream-sdk"] },
    Edges { package: "filter", uses: &["millstream-sdk"] },
    Edges { package: "hot-key-splitter", uses: &["millstream-sdk"] },
    Edges { package: "json-redactor", uses: &["millstream-sdk"] },
    Edges { package: "router", uses: &["millstream-sdk"] },
];

/// The types of a heavy dependency do not leave its home. `millstream-benches` is beside some
/// homes because it measures the dependency itself, as the ceiling of what we build on it;
/// `millstream-tests` because only a QUIC client that is not ours can break the protocol's rules.
pub(crate) const HOMES: &[Home] = &[
    // QUIC, TLS and certificates.
    Home {
        dependency: "quinn",
        homes: &["millstream-net", "millstream-benches"],
        tests: &["millstream-tests"],
    },
    // The archive and the plugins' host take SHA-256 of it.
    Home {
        dependency: "aws-lc-rs",
        homes: &["millstream-net", "millstream-tiered", "millstream-plugin"],
        tests: &[],
    },
    Home { dependency: "quinn-proto", homes: &["millstream-net"], tests: &[] },
    Home { dependency: "quinn-udp", homes: &["millstream-net"], tests: &[] },
    Home {
        dependency: "rustls",
        homes: &["millstream-net", "millstream-benches"],
        tests: &["millstream-tests"],
    },
    Home { dependency: "rcgen", homes: &["millstream-net", "millstream-benches"], tests: &[] },
    Home { dependency: "x509-parser", homes: &["millstream-net"], tests: &[] },
    Home { dependency: "socket2", homes: &["millstream-net", "millstream-benches"], tests: &[] },
    // Consensus.
    Home { dependency: "openraft", homes: &["millstream-quorum"], tests: &[] },
    // The operating system: files and entropy have one door.
    // The command line sends signals to the brokers that it starts, and paces load by a timer; the
    // archive's benchmark reads its processor time.
    Home {
        dependency: "rustix",
        homes: &["millstream-env", "millstream-cli", "millstream-benches"],
        tests: &["millstream-tiered"],
    },
    Home { dependency: "libc", homes: &["millstream-env"], tests: &[] },
    Home { dependency: "getrandom", homes: &["millstream-env"], tests: &[] },
    Home { dependency: "rand", homes: &[], tests: &[] },
    // Record batches and their codecs. The CLI unpacks the demo's input with zstd.
    Home { dependency: "kafka-protocol", homes: &[FUZZ], tests: &["millstream-wire"] },
    Home { dependency: "flate2", homes: &["millstream-wire"], tests: &[] },
    Home { dependency: "lz4_flex", homes: &["millstream-wire"], tests: &[] },
    Home { dependency: "snap", homes: &["millstream-wire"], tests: &[] },
    Home { dependency: "zstd", homes: &["millstream-wire", "millstream-cli"], tests: &[] },
    // What waits and spawns. Decisions, the log and the simulator do neither.
    Home {
        dependency: "tokio",
        homes: &[
            "millstream-quorum",
            "millstream-net",
            "millstream-client",
            "millstream-broker",
            "millstream-cli",
            "millstream",
            "millstream-benches",
            "millstream-tiered",
        ],
        tests: &["millstream-tests"],
    },
    // The archive: object stores, columns and Parquet.
    Home { dependency: "object_store", homes: &["millstream-tiered"], tests: &[] },
    Home { dependency: "arrow-array", homes: &["millstream-tiered"], tests: &[] },
    Home { dependency: "arrow-buffer", homes: &["millstream-tiered"], tests: &[] },
    Home { dependency: "arrow-schema", homes: &["millstream-tiered"], tests: &[] },
    Home { dependency: "parquet", homes: &["millstream-tiered"], tests: &[] },
    // WebAssembly and its formats.
    Home { dependency: "wasmtime", homes: &["millstream-plugin"], tests: &[] },
    Home { dependency: "wasmparser", homes: &["millstream-plugin-build"], tests: &[] },
    Home { dependency: "wit-component", homes: &["millstream-plugin-build"], tests: &[] },
    Home { dependency: "wit-parser", homes: &["millstream-plugin-build"], tests: &[] },
    // Command lines and terminals.
    Home {
        dependency: "clap",
        homes: &["millstream-cli", "millstream", "millstream-sim", "millstream-benches"],
        tests: &[],
    },
    Home { dependency: "clap_complete", homes: &["millstream-cli"], tests: &[] },
    Home { dependency: "indicatif", homes: &["millstream-cli"], tests: &[] },
    Home { dependency: "tracing-subscriber", homes: &["millstream"], tests: &[] },
    Home { dependency: "toml", homes: &["millstream-broker"], tests: &["millstream-tests"] },
    // Errors without a type are for binaries, tests and benchmarks; libraries have closed enums.
    Home {
        dependency: "anyhow",
        homes: &[
            "millstream-cli",
            "millstream",
            "millstream-sim",
            "millstream-benches",
            "millstream-tests",
            FUZZ,
        ],
        tests: &["millstream-tiered"],
    },
    // Tests only.
    Home {
        dependency: "proptest",
        homes: &[],
        tests: &[
            "millstream-types",
            "millstream-env",
            "millstream-wire",
            "millstream-log",
            "millstream-replica",
            "millstream-meta",
            "millstream-partition",
            "millstream-tiered",
            "millstream-net",
            "millstream-client",
            "millstream-plugin-abi",
            "millstream-sdk",
        ],
    },
    Home { dependency: "insta", homes: &[], tests: &["millstream-cli", "millstream-broker"] },
];
