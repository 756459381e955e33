//! Invented people of several scripts, the same ones for the same seed.
//!
//! First and last names clash as they do in life: few are very common, many are rare, and many usernames
//! end in digits. Accents are written as their owners write them; usernames and addresses are ASCII.

use std::collections::HashSet;

use doorward::clock::Time;
use doorward::users::{Attributes, Change, ChangeKind, Email, Role, Status, User, Username};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::value::RawValue;

/// A name and its ASCII spelling.
type Name = (&'static str, &'static str);

const LATIN_FIRST: &[Name] = &[
    ("Maria", "maria"),
    ("Anna", "anna"),
    ("John", "john"),
    ("Michael", "michael"),
    ("José", "jose"),
    ("David", "david"),
    ("Sofía", "sofia"),
    ("Thomas", "thomas"),
    ("Laura", "laura"),
    ("François", "francois"),
    ("Jürgen", "juergen"),
    ("Zoë", "zoe"),
    ("André", "andre"),
    ("Chloé", "chloe"),
    ("Martin", "martin"),
    ("Marta", "marta"),
    ("Łukasz", "lukasz"),
    ("Małgorzata", "malgorzata"),
    ("Søren", "soren"),
    ("Åsa", "asa"),
    ("Björn", "bjorn"),
    ("Ingrid", "ingrid"),
    ("João", "joao"),
    ("Inês", "ines"),
    ("Nguyễn", "nguyen"),
    ("Thảo", "thao"),
    ("Şebnem", "sebnem"),
    ("Işık", "isik"),
    ("Čeněk", "cenek"),
    ("Eleanor", "eleanor"),
    ("Mary-Ann", "maryann"),
    ("Sinéad", "sinead"),
    ("Oisín", "oisin"),
    ("Kwame", "kwame"),
    ("Priya", "priya"),
    ("Alexander", "alexander"),
    ("Alexandra", "alexandra"),
    ("Christopher", "christopher"),
    ("Lena", "lena"),
    ("Max", "max"),
    ("Li", "li"),
    ("Amélie", "amelie"),
    ("Jean", "jean"),
    ("Mohammed", "mohammed"),
];
const LATIN_LAST: &[Name] = &[
    ("Smith", "smith"),
    ("Müller", "mueller"),
    ("García", "garcia"),
    ("Martínez", "martinez"),
    ("Silva", "silva"),
    ("Schmidt", "schmidt"),
    ("Schmitt", "schmitt"),
    ("Nowak", "nowak"),
    ("Wójcik", "wojcik"),
    ("Dvořák", "dvorak"),
    ("O'Brien", "obrien"),
    ("Lefèvre", "lefevre"),
    ("Dubois", "dubois"),
    ("Rossi", "rossi"),
    ("Bianchi", "bianchi"),
    ("Andersson", "andersson"),
    ("Østergård", "ostergard"),
    ("Großmann", "grossmann"),
    ("Weiß", "weiss"),
    ("Yılmaz", "yilmaz"),
    ("Öztürk", "ozturk"),
    ("Kovács", "kovacs"),
    ("Popescu", "popescu"),
    ("Jansen", "jansen"),
    ("van den Berg", "vandenberg"),
    ("de la Cruz", "delacruz"),
    ("Johnson", "johnson"),
    ("Jonsson", "jonsson"),
    ("Brown", "brown"),
    ("Meyer", "meyer"),
    ("Mayer", "mayer"),
    ("Meier", "meier"),
    ("Fischer", "fischer"),
    ("Peña", "pena"),
    ("Gonçalves", "goncalves"),
    ("Đorđević", "djordjevic"),
    ("Trần", "tran"),
    ("Lý", "ly"),
    ("Murphy", "murphy"),
    ("Macdonald", "macdonald"),
    ("Okonkwo", "okonkwo"),
    ("Sharma", "sharma"),
];
const CYRILLIC_FIRST: &[Name] = &[
    ("Александр", "alexandr"),
    ("Анна", "anna"),
    ("Сергей", "sergey"),
    ("Мария", "maria"),
    ("Дмитрий", "dmitry"),
    ("Елена", "elena"),
    ("Ольга", "olga"),
    ("Иван", "ivan"),
    ("Наталья", "natalia"),
    ("Фёдор", "fedor"),
    ("Андрей", "andrey"),
    ("Юлия", "yulia"),
    ("Олександр", "oleksandr"),
    ("Надія", "nadia"),
    ("Ђорђе", "djordje"),
];
const CYRILLIC_LAST: &[Name] = &[
    ("Иванов", "ivanov"),
    ("Смирнов", "smirnov"),
    ("Кузнецов", "kuznetsov"),
    ("Попов", "popov"),
    ("Соловьёв", "solovyov"),
    ("Петров", "petrov"),
    ("Шевченко", "shevchenko"),
    ("Коваленко", "kovalenko"),
    ("Бойко", "boyko"),
    ("Йовановић", "jovanovic"),
    ("Иванова", "ivanova"),
    ("Мельник", "melnyk"),
];
const GREEK_FIRST: &[Name] = &[
    ("Γιώργος", "giorgos"),
    ("Μαρία", "maria"),
    ("Ελένη", "eleni"),
    ("Δημήτρης", "dimitris"),
    ("Κώστας", "kostas"),
    ("Άννα", "anna"),
    ("Ιωάννης", "ioannis"),
    ("Αικατερίνη", "katerina"),
];
const GREEK_LAST: &[Name] = &[
    ("Παπαδόπουλος", "papadopoulos"),
    ("Παππάς", "pappas"),
    ("Νικολάου", "nikolaou"),
    ("Γεωργίου", "georgiou"),
    ("Οικονόμου", "oikonomou"),
    ("Βασιλείου", "vasileiou"),
];
const HAN_LAST: &[Name] = &[
    ("李", "li"),
    ("王", "wang"),
    ("张", "zhang"),
    ("陳", "chen"),
    ("刘", "liu"),
    ("佐藤", "sato"),
    ("鈴木", "suzuki"),
    ("田中", "tanaka"),
    ("김", "kim"),
    ("박", "park"),
    ("欧阳", "ouyang"),
    ("高橋", "takahashi"),
];
const HAN_FIRST: &[Name] = &[
    ("明", "ming"),
    ("伟", "wei"),
    ("芳", "fang"),
    ("秀英", "xiuying"),
    ("小龙", "xiaolong"),
    ("美咲", "misaki"),
    ("健太", "kenta"),
    ("さくら", "sakura"),
    ("アンナ", "anna"),
    ("민준", "minjun"),
    ("서연", "seoyeon"),
    ("子涵", "zihan"),
];
const ARABIC_FIRST: &[Name] = &[
    ("محمد", "mohammed"),
    ("فاطمة", "fatima"),
    ("أحمد", "ahmed"),
    ("عائشة", "aisha"),
    ("علي", "ali"),
    ("مُحَمَّد", "muhammad"),
    ("نور", "nour"),
    ("يوسف", "yousef"),
];
const ARABIC_LAST: &[Name] = &[
    ("الحسن", "alhassan"),
    ("المصري", "almasri"),
    ("حداد", "haddad"),
    ("خوري", "khoury"),
    ("بن علي", "benali"),
    ("السيد", "elsayed"),
];
/// Of these, the long tail of rare last names is made.
const SYLLABLES: &[&str] = &[
    "ka", "ro", "mi", "len", "sta", "vik", "dor", "an", "el", "ber", "ti", "zu", "gor", "ne", "schu", "wal", "he",
    "lin", "mar", "po", "sky", "ova", "ić", "ström", "feld", "man", "son", "ton", "rö", "ña", "qui", "ya",
];
const NICKS: &[&str] = &[
    "coolcat",
    "dragon",
    "ninja",
    "rustacean",
    "shadow",
    "moon",
    "tiger",
    "pixel",
    "nova",
    "gamer",
    "coder",
    "sunny",
    "wolf",
    "player",
    "dev",
    "star",
];
const WORDS: &[&str] =
    &["runs", "reads", "cooks", "paints", "codes", "climbs", "sails", "sings", "and", "daily", "in Łódź"];

/// An endless row of distinct people.
pub struct People {
    random: StdRng,
    taken: HashSet<String>,
    created_ms: i64,
}

impl People {
    /// The people of this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), taken: HashSet::new(), created_ms: 1_600_000_000_000 }
    }

    /// A common name often, a rare one seldom.
    fn pick(&mut self, names: &[Name]) -> Name {
        let at = self.random.random::<f64>().powi(2) * names.len() as f64;
        names[at as usize]
    }

    fn rare_last_name(&mut self) -> String {
        let count = self.random.random_range(2..=4);
        let name: String = (0..count).filter_map(|_| SYLLABLES.choose(&mut self.random)).copied().collect();
        let first = name.chars().next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
        first + &name.chars().skip(1).collect::<String>()
    }

    /// A display name, and the ASCII spellings of its parts.
    fn names(&mut self) -> (String, String, String) {
        let script = self.random.random_range(0..100);
        let (firsts, lasts) = match script {
            0..64 => (LATIN_FIRST, LATIN_LAST),
            64..78 => (CYRILLIC_FIRST, CYRILLIC_LAST),
            78..84 => (GREEK_FIRST, GREEK_LAST),
            84..93 => (HAN_FIRST, HAN_LAST),
            _ => (ARABIC_FIRST, ARABIC_LAST),
        };
        let (first, first_ascii) = self.pick(firsts);
        let (last, last_ascii) = self.pick(lasts);
        if script < 64 && self.random.random_bool(0.45) {
            let last = self.rare_last_name();
            let ascii = doorward::users::fold::fold(&last);
            return (format!("{first} {last}"), first_ascii.to_owned(), ascii);
        }
        let display = if (84..93).contains(&script) { format!("{last}{first}") } else { format!("{first} {last}") };
        (display, first_ascii.to_owned(), last_ascii.to_owned())
    }

    fn username(&mut self, first: &str, last: &str) -> String {
        let initial = &first[..1];
        let number = self.random.random_range(1..=2010);
        let mut name = match self.random.random_range(0..10) {
            0 => format!("{first}.{last}"),
            1 => format!("{first}_{last}{number}"),
            2 => format!("{first}{last}"),
            3 => format!("{initial}{last}{}", number % 100),
            4 => format!("{first}{number}"),
            5 => format!("{last}.{first}"),
            6 => format!("{}_{number}", NICKS.choose(&mut self.random).unwrap_or(&"nobody")),
            7 => format!("{}-{}{}", NICKS.choose(&mut self.random).unwrap_or(&"nobody"), first, number % 100),
            8 => format!("{}{}", first.to_uppercase(), number),
            _ => format!("{first}.{last}.{number}"),
        };
        name.truncate(26);
        while name.len() < 3 || !self.taken.insert(name.to_lowercase()) {
            name.truncate(26);
            name = format!("{name}{}", self.random.random_range(0..1_000_000));
            name.truncate(32);
        }
        name
    }
}

impl Iterator for People {
    type Item = User;

    fn next(&mut self) -> Option<User> {
        let (full_name, first, last) = self.names();
        let username = Username::parse(&self.username(&first, &last)).expect("made of ASCII letters, digits, . _ -");
        let display_name = match self.random.random_range(0..20) {
            0 => username.to_string(),
            1 => full_name.to_lowercase(),
            2 => format!("🦀 {full_name}"),
            _ => full_name,
        };
        // Several in one millisecond now and then: equal sort values must not lose anybody.
        self.created_ms += self.random.random_range(0..4) * self.random.random_range(0..100_000);
        let created_at = Time::from_ms(self.created_ms);
        let updated_at = Time::from_ms(self.created_ms + self.random.random_range(0..3) * 86_400_000);
        let status = match self.random.random_range(0..100) {
            0..4 => Status::Deactivated,
            4 => Status::Erased,
            _ => Status::Active,
        };
        let bio: Vec<&str> =
            (0..self.random.random_range(0..8)).filter_map(|_| WORDS.choose(&mut self.random)).copied().collect();
        let email = Email::parse(&format!("{username}@example.com")).expect("a username is a good local part");
        let attributes = format!(r#"{{"locale":"de-AT","team":{}}}"#, self.random.random_range(0..50));
        let attributes = RawValue::from_string(attributes).expect("it is JSON");
        Some(User {
            email: Some(email).filter(|_| status != Status::Erased),
            display_name,
            bio: bio.join(" "),
            avatar_url: self.random.random_bool(0.3).then(|| format!("https://img.example.com/{username}.png")),
            attributes: Attributes::parse(&attributes).expect("it is small"),
            status,
            role: if self.random.random_bool(0.01) { Role::Admin } else { Role::User },
            created_at,
            updated_at,
            rev: 1,
            last_change: Change {
                kind: ChangeKind::Created,
                fields: Vec::new(),
                actor: Some(username.clone()),
                at: updated_at,
                reason: None,
            },
            generation: 1,
            encoded: doorward::users::Encoded::default(),
            username,
        })
    }
}
