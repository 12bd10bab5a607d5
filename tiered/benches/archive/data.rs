//! What is measured: records as applications send them, from a seed, and real ones, as a log of
//! Kafka's batches.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use millstream_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};
use millstream_wire::{BatchBuilder, Codec, IncomingBatch, ProducerStamp};

/// What a producer gathers before it sends, Kafka's default.
pub(crate) const BATCH_BYTES: usize = 16 * 1024;
/// What a broker archives as one object in this benchmark.
pub(crate) const RANGE_BYTES: usize = 32 * 1024 * 1024;
/// Idempotent producers that take turns.
const PRODUCERS: usize = 4;
const START_MS: i64 = 1_790_000_000_000;
static FLIGHTS: &[u8] = include_bytes!("../../../core/cli/data/flights-200k.csv.zst");
const FLIGHTS_BYTES_MAX: usize = 64 * 1024 * 1024;

const CITIES: [(&str, &str, u32); 12] = [
    ("Amsterdam", "NL", 1012),
    ("Berlin", "DE", 10115),
    ("Chicago", "US", 60601),
    ("Dublin", "IE", 2000),
    ("Helsinki", "FI", 100),
    ("Lisbon", "PT", 1100),
    ("London", "GB", 1300),
    ("Madrid", "ES", 28001),
    ("Milan", "IT", 20121),
    ("Oslo", "NO", 150),
    ("Portland", "US", 97201),
    ("Vienna", "AT", 1010),
];
const STREETS: [&str; 10] = [
    "Station Road",
    "Mill Lane",
    "High Street",
    "Church Street",
    "Harbour Way",
    "Park Avenue",
    "Castle Hill",
    "Bridge Street",
    "Orchard Close",
    "King Street",
];
const FIRST_NAMES: [&str; 16] = [
    "Ada", "Bruno", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Iris", "Jonas", "Kim",
    "Lena", "Marta", "Nils", "Olga", "Pablo",
];
const LAST_NAMES: [&str; 16] = [
    "Andersen", "Bauer", "Costa", "Dubois", "Evans", "Fischer", "Garcia", "Hughes", "Ivanova",
    "Jensen", "Keller", "Lopez", "Moreau", "Novak", "Olsen", "Petrov",
];
const PRODUCTS: [&str; 20] = [
    "steel water bottle",
    "wool socks",
    "desk lamp",
    "ceramic mug",
    "running shoes",
    "linen shirt",
    "coffee grinder",
    "phone stand",
    "travel adapter",
    "notebook A5",
    "bicycle light",
    "kitchen scale",
    "rain jacket",
    "garden gloves",
    "bluetooth speaker",
    "cutting board",
    "yoga mat",
    "reading glasses",
    "tea towel",
    "camping stove",
];
const COLOURS: [&str; 8] = ["black", "white", "navy", "olive", "sand", "red", "grey", "teal"];
const WORDS: [&str; 24] = [
    "please",
    "leave",
    "the",
    "parcel",
    "with",
    "a",
    "neighbour",
    "at",
    "back",
    "door",
    "ring",
    "twice",
    "call",
    "before",
    "delivery",
    "gift",
    "wrap",
    "no",
    "signature",
    "needed",
    "after",
    "six",
    "behind",
    "gate",
];
const PAGES: [&str; 12] = [
    "/",
    "/search",
    "/cart",
    "/checkout",
    "/account",
    "/orders",
    "/help",
    "/sale",
    "/new",
    "/wishlist",
    "/stores",
    "/returns",
];
const REFERRERS: [&str; 6] = ["direct", "google", "newsletter", "bing", "partner", "social"];

/// A shape of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// JSON of about 1 KiB with nested parts.
    Orders,
    /// JSON of about 100 bytes.
    Clicks,
    /// The flights that the demo sends: real, and no more than there are.
    Flights,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Orders, Self::Clicks, Self::Flights];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders",
            Self::Clicks => "clicks",
            Self::Flights => "flights",
        }
    }
}

/// SplitMix64: the same numbers everywhere from one seed.
#[derive(Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Below `bound`, small numbers far more often: what is popular.
    const fn popular(&mut self, bound: u64) -> u64 {
        let (one, two) = (self.below(bound), self.below(bound));
        (one * two / bound) * (self.below(bound) + 1) / bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> Result<T> {
        let at = usize::try_from(self.below(of.len() as u64))?;
        of.get(at).copied().context("nothing to pick from")
    }
}

/// A record to be.
#[derive(Debug, Default)]
struct Draft {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A log that grows range by range.
#[derive(Debug)]
pub(crate) struct Source {
    kind: Kind,
    rng: Rng,
    /// Bytes of batches still to come.
    left: u64,
    next: Offset,
    now_ms: i64,
    sequences: [i32; PRODUCERS],
    draft: Draft,
    /// The flights as CSV, without those that were sent.
    flights: Bytes,
}

impl Source {
    /// A log of about `bytes`, or of as much as there is.
    pub(crate) fn new(kind: Kind, bytes: u64) -> Result<Self> {
        let flights = match kind {
            Kind::Flights => {
                let csv = Codec::Zstd.decompress(FLIGHTS, FLIGHTS_BYTES_MAX)?;
                let header = csv.iter().position(|byte| *byte == b'\n').context("no header")?;
                csv.slice(header + 1..)
            }
            _ => Bytes::new(),
        };
        Ok(Self {
            kind,
            rng: Rng::new(7),
            left: bytes,
            next: Offset::ZERO,
            now_ms: START_MS,
            sequences: [0; PRODUCERS],
            draft: Draft::default(),
            flights,
        })
    }

    /// The next range: its batches one after another. `None` after the last.
    pub(crate) fn range(&mut self) -> Result<Option<Bytes>> {
        let mut range = BytesMut::with_capacity(RANGE_BYTES + BATCH_BYTES);
        let wanted = RANGE_BYTES.min(usize::try_from(self.left)?);
        while range.len() < wanted {
            let Some(batch) = self.batch()? else {
                self.left = 0;
                break;
            };
            range.extend_from_slice(&batch);
        }
        self.left = self.left.saturating_sub(range.len() as u64);
        Ok((!range.is_empty()).then(|| range.freeze()))
    }

    fn batch(&mut self) -> Result<Option<Bytes>> {
        let mut builder = BatchBuilder::new(Codec::None, BATCH_BYTES);
        let mut record_bytes = 0;
        while builder.estimated_bytes() + record_bytes <= BATCH_BYTES && self.draft()? {
            let Draft { key, value } = &self.draft;
            record_bytes = BatchBuilder::record_bytes_bound(Some(key), Some(value), &[]);
            builder.append(TimestampMs(self.now_ms), Some(key), Some(value), &[])?;
        }
        if builder.is_empty() {
            return Ok(None);
        }
        let count = builder.record_count();
        let index = usize::try_from(self.rng.below(PRODUCERS as u64))?;
        let sequence = self.sequences.get_mut(index).context("no such producer")?;
        let producer = ProducerStamp {
            id: ProducerId(4000 + i64::try_from(index)?),
            epoch: ProducerEpoch(0),
            base_sequence: *sequence,
        };
        *sequence += i32::try_from(count)?;
        let bytes = BytesMut::from(builder.build(producer)?);
        let batch = IncomingBatch::validate(bytes, 2 * BATCH_BYTES)?;
        let base = self.next;
        self.next = base.plus(u64::from(count));
        Ok(Some(batch.assign(base, LeaderEpoch(3)).into_bytes()))
    }

    /// Drafts the next record; `false` when there is none.
    fn draft(&mut self) -> Result<bool> {
        let Self { kind, rng, draft, now_ms, flights, .. } = self;
        draft.key.clear();
        draft.value.clear();
        match kind {
            Kind::Orders => order(rng, now_ms, draft)?,
            Kind::Clicks => click(rng, now_ms, draft)?,
            Kind::Flights => {
                let Some(end) = flights.iter().position(|byte| *byte == b'\n') else {
                    return Ok(false);
                };
                let line = flights.split_to(end + 1);
                flight(std::str::from_utf8(&line)?.trim_end(), now_ms, draft)?;
            }
        }
        Ok(true)
    }
}

fn order(rng: &mut Rng, now_ms: &mut i64, draft: &mut Draft) -> Result<()> {
    *now_ms += i64::try_from(rng.below(12))?;
    let out = &mut draft.value;
    let customer = rng.popular(2_000_000);
    write!(draft.key, "customer-{customer}")?;
    let (first, last) = (rng.pick(&FIRST_NAMES)?, rng.pick(&LAST_NAMES)?);
    let status = rng.pick(&["placed", "placed", "paid", "paid", "shipped", "cancelled"])?;
    let currency = rng.pick(&["EUR", "EUR", "USD", "GBP"])?;
    write!(out, r#"{{"order_id":"{:016x}{:016x}","#, rng.next(), rng.next())?;
    write!(out, r#""created_at":{now_ms},"status":"{status}","currency":"{currency}","#)?;
    write!(out, r#""customer":{{"id":{customer},"name":"{first} {last}","email":"#)?;
    let (first, last) = (first.to_lowercase(), last.to_lowercase());
    write!(out, r#""{first}.{last}{}@example.com","tier":"#, rng.below(100))?;
    let tier = rng.pick(&["basic", "basic", "plus"])?;
    write!(out, r#""{tier}","returning":{}}},"items":["#, rng.below(3) > 0)?;
    let mut total = 0;
    for item in 0..2 + rng.below(4) {
        let (cents, quantity) = (199 + rng.popular(20_000), 1 + rng.popular(5));
        total += cents * quantity;
        let (product, colour) = (rng.pick(&PRODUCTS)?, rng.pick(&COLOURS)?);
        let comma = if item == 0 { "" } else { "," };
        write!(out, r#"{comma}{{"sku":"SKU-{:06}","name":"{product}","#, rng.popular(90_000))?;
        write!(out, r#""variant":"{colour}","quantity":{quantity},"unit_price":"#)?;
        write!(out, "{}.{:02}}}", cents / 100, cents % 100)?;
    }
    let (city, country, zip) = rng.pick(&CITIES)?;
    let (zip, street) = (u64::from(zip) + rng.below(90), rng.pick(&STREETS)?);
    write!(out, r#"],"total":{}.{:02},"shipping":{{"street":"#, total / 100, total % 100)?;
    write!(out, r#""{} {street}","city":"{city}","zip":"{zip}","#, 1 + rng.below(200))?;
    let method = rng.pick(&["standard", "standard", "express", "pickup"])?;
    write!(out, r#""country":"{country}","method":"{method}"}},"payment":{{"method":"#)?;
    let payment = rng.pick(&["card", "card", "paypal", "invoice"])?;
    write!(out, r#""{payment}","last4":"{:04}","authorization":"#, rng.below(10_000))?;
    write!(out, r#""{:08x}"}},"note":""#, rng.below(1 << 32))?;
    for word in 0..rng.below(14) {
        let space = if word == 0 { "" } else { " " };
        write!(out, "{space}{}", rng.pick(&WORDS)?)?;
    }
    let (major, agent) = (rng.below(20), rng.pick(&["web", "web", "ios", "android"])?);
    write!(out, r#"","source":{{"app":"{agent}","version":"8.{major}.0","session":"#)?;
    write!(out, r#""{:012x}","experiments":["#, rng.below(1 << 48))?;
    let (one, two) = (rng.below(12), rng.below(12));
    write!(out, r#""checkout-{one}","ranking-{two}"]}}}}"#)?;
    Ok(())
}

fn click(rng: &mut Rng, now_ms: &mut i64, draft: &mut Draft) -> Result<()> {
    *now_ms += i64::from(rng.below(3) == 0);
    let user = rng.popular(5_000_000);
    write!(draft.key, "u{user}")?;
    let out = &mut draft.value;
    write!(out, r#"{{"user":{user},"page":""#)?;
    if rng.below(3) == 0 {
        write!(out, "{}", rng.pick(&PAGES)?)?;
    } else {
        write!(out, "/product/{}", rng.popular(60_000))?;
    }
    let device = rng.pick(&["mobile", "mobile", "desktop", "tablet"])?;
    write!(out, r#"","ref":"{}","device":"{device}","ms":"#, rng.pick(&REFERRERS)?)?;
    write!(out, r#"{},"session":"{:06x}"}}"#, 20 + rng.popular(2_000), rng.below(1 << 24))?;
    Ok(())
}

/// As the demo sends it, though without its time of departure for the record's.
fn flight(line: &str, now_ms: &mut i64, draft: &mut Draft) -> Result<()> {
    *now_ms += 5;
    let mut fields = line.split(',');
    let mut field = || fields.next().context("a field of a flight is missing");
    let (date, delay, distance) = (field()?, field()?, field()?);
    let (origin, destination) = (field()?, field()?);
    write!(draft.key, "{origin}")?;
    let out = &mut draft.value;
    write!(out, r#"{{"date":"{date}","delay":{delay},"distance":{distance},"#)?;
    write!(out, r#""origin":"{origin}","destination":"{destination}"}}"#)?;
    Ok(())
}
