//! What happens in a run and how often, as data.

/// How often each event is drawn, relative to the sum of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// A producer sends its next batch.
    pub produce: u32,
    /// A producer sends again what was not acknowledged.
    pub resend: u32,
    /// A copy of an earlier batch arrives late, as from a connection given up.
    pub stray: u32,
    /// An acknowledgement is lost with its connection.
    pub lose_ack: u32,
    /// The disk does one operation.
    pub disk: u32,
    /// Time passes.
    pub time: u32,
    /// Rolling by time, retention, the newest mark.
    pub maintain: u32,
    /// A consumer reads on.
    pub consume: u32,
    /// A consumer starts anew somewhere.
    pub seek: u32,
    /// All that is committed is read and compared.
    pub audit: u32,
    /// The power goes off within the next operations.
    pub power_cut: u32,
    /// The process dies and starts again.
    pub kill: u32,
    /// The process stops in good order and starts again.
    pub close: u32,
    /// The disk becomes full, or has room again.
    pub no_space: u32,
    /// One of the next syncs fails.
    pub fail_sync: u32,
    /// A bit of the stored data turns over while the broker is down.
    pub rot: u32,
    /// Archiving takes its next step.
    pub offload: u32,
    /// A request to the archive's store, of a process that is gone, arrives.
    pub late_upload: u32,
    /// Retention looks at the archive, or what nothing names there any more is removed.
    pub tidy: u32,
    /// The disk is lost with all that is on it, and the archive alone is left.
    pub lose_disk: u32,
}

impl Mix {
    /// Traffic, and nothing goes wrong.
    pub const CALM: Self = Self {
        produce: 200,
        resend: 100,
        stray: 10,
        lose_ack: 5,
        disk: 450,
        time: 40,
        maintain: 15,
        consume: 150,
        seek: 5,
        audit: 2,
        power_cut: 0,
        kill: 0,
        close: 0,
        no_space: 0,
        fail_sync: 0,
        rot: 0,
        offload: 0,
        late_upload: 0,
        tidy: 0,
        lose_disk: 0,
    };

    /// The weights in the order of the fields.
    pub(crate) const fn weights(&self) -> [u32; 20] {
        [
            self.produce,
            self.resend,
            self.stray,
            self.lose_ack,
            self.disk,
            self.time,
            self.maintain,
            self.consume,
            self.seek,
            self.audit,
            self.power_cut,
            self.kill,
            self.close,
            self.no_space,
            self.fail_sync,
            self.rot,
            self.offload,
            self.late_upload,
            self.tidy,
            self.lose_disk,
        ]
    }
}

/// A kind of run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// How often what happens.
    pub mix: Mix,
    /// Whether old segments are removed, by size and by time.
    pub retention: bool,
    /// Whether partitions are archived; then `retention` is that of the local copies, and the
    /// archive has one of its own.
    pub archived: bool,
    /// How many in a hundred disk operations are done within the submitting call.
    pub ready_per_cent: u8,
}

impl Profile {
    /// Every profile.
    pub const ALL: &[Self] = &[
        Self {
            name: "calm",
            about: "nothing goes wrong but lost acknowledgements",
            mix: Mix::CALM,
            retention: false,
            archived: false,
            ready_per_cent: 20,
        },
        Self {
            name: "kills",
            about: "the process dies, or stops in good order, again and again",
            mix: Mix { kill: 8, close: 4, ..Mix::CALM },
            retention: false,
            archived: false,
            ready_per_cent: 30,
        },
        Self {
            name: "power",
            about: "the power is cut, also in the middle of recovery",
            mix: Mix { power_cut: 12, kill: 2, ..Mix::CALM },
            retention: false,
            archived: false,
            ready_per_cent: 30,
        },
        Self {
            name: "retention",
            about: "old segments go while everything else happens",
            mix: Mix { power_cut: 8, kill: 4, close: 2, maintain: 60, ..Mix::CALM },
            retention: true,
            archived: false,
            ready_per_cent: 50,
        },
        Self {
            name: "disk",
            about: "the disk is full for a while, syncs fail, the power is cut",
            mix: Mix { power_cut: 3, kill: 2, no_space: 12, fail_sync: 5, ..Mix::CALM },
            retention: true,
            archived: false,
            ready_per_cent: 30,
        },
        Self {
            name: "rot",
            about: "stored bits turn over: damage is reported, never passed over",
            mix: Mix { rot: 4, kill: 2, close: 2, ..Mix::CALM },
            retention: false,
            archived: false,
            ready_per_cent: 50,
        },
        Self {
            name: "archive",
            about: "ranges go to an archive that fails and gives up the oldest; disks are lost",
            mix: Mix {
                power_cut: 6,
                kill: 5,
                close: 2,
                no_space: 3,
                fail_sync: 2,
                maintain: 60,
                offload: 150,
                late_upload: 25,
                tidy: 40,
                lose_disk: 3,
                ..Mix::CALM
            },
            retention: true,
            archived: true,
            ready_per_cent: 40,
        },
    ];

    /// The profile of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|profile| profile.name == name)
    }

    /// The profile that a seed stands for where none is asked for: each has its turn.
    #[must_use]
    pub fn of_seed(seed: u64) -> &'static Self {
        let index = usize::try_from(seed % Self::ALL.len() as u64).unwrap_or_default();
        &Self::ALL[index]
    }
}
