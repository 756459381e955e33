//! The permission table: which caller may use which method, on whom, and which fields they see or set.
//!
//! Every method of the wire and every field of a user is a variant here, and each rule is a `match`
//! without a catch-all: a method or field that is missing from the table does not compile. The
//! functions are the only place where a right is decided; handlers ask and never judge themselves.

use crate::users::Role;

/// Declares [`Method`] with its names on the wire, so that the two cannot drift apart.
macro_rules! methods {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// Every method of the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl Method {
            /// All methods; the index of each is its discriminant.
            pub const ALL: &[Method] = &[$(Method::$variant),+];

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The method of a name on the wire, or `None`.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

methods! {
    AuthRegister = "auth.register",
    AuthLogin = "auth.login",
    AuthAuthenticate = "auth.authenticate",
    AuthRefresh = "auth.refresh",
    AuthLogout = "auth.logout",
    AuthChangePassword = "auth.change_password",
    AuthSessions = "auth.sessions",
    AuthEndSession = "auth.end_session",
    UsersGet = "users.get",
    UsersGetMany = "users.get_many",
    UsersFindByEmail = "users.find_by_email",
    UsersList = "users.list",
    UsersSearch = "users.search",
    UsersCreate = "users.create",
    UsersUpdate = "users.update",
    UsersDeactivate = "users.deactivate",
    UsersReactivate = "users.reactivate",
    UsersSetRole = "users.set_role",
    UsersSetPassword = "users.set_password",
    UsersErase = "users.erase",
    UsersSubscribe = "users.subscribe",
    UsersUnsubscribe = "users.unsubscribe",
    UsersChanges = "users.changes",
    SystemInfo = "system.info",
    SystemPing = "system.ping",
}

impl Method {
    /// Whether it only makes sense on a WebSocket.
    pub fn needs_socket(self) -> bool {
        matches!(self, Self::AuthAuthenticate | Self::UsersSubscribe | Self::UsersUnsubscribe)
    }

    /// Whether it changes what the store holds: a call cut off may have had its effect.
    pub fn writes(self) -> bool {
        match self {
            Self::AuthRegister
            | Self::AuthLogin
            | Self::AuthRefresh
            | Self::AuthLogout
            | Self::AuthChangePassword
            | Self::AuthEndSession
            | Self::UsersCreate
            | Self::UsersUpdate
            | Self::UsersDeactivate
            | Self::UsersReactivate
            | Self::UsersSetRole
            | Self::UsersSetPassword
            | Self::UsersErase => true,
            Self::AuthAuthenticate
            | Self::AuthSessions
            | Self::UsersGet
            | Self::UsersGetMany
            | Self::UsersFindByEmail
            | Self::UsersList
            | Self::UsersSearch
            | Self::UsersSubscribe
            | Self::UsersUnsubscribe
            | Self::UsersChanges
            | Self::SystemInfo
            | Self::SystemPing => false,
        }
    }

    /// Whether it goes on when its caller has gone. A login does not: nobody could use its session, and the hashes of those
    /// who left would hold up who is there.
    pub fn outlives_its_caller(self) -> bool {
        self.writes() && self != Self::AuthLogin
    }

    /// Whether it changes a user so that former sessions are over. What follows of that is its own work.
    pub fn ends_sessions(self) -> bool {
        matches!(
            self,
            Self::AuthChangePassword
                | Self::UsersDeactivate
                | Self::UsersReactivate
                | Self::UsersSetRole
                | Self::UsersSetPassword
                | Self::UsersErase
        )
    }

    /// Whether it may wait for a password to be hashed.
    pub fn hashes(self) -> bool {
        matches!(
            self,
            Self::AuthRegister
                | Self::AuthLogin
                | Self::AuthChangePassword
                | Self::UsersCreate
                | Self::UsersUpdate
                | Self::UsersSetPassword
        )
    }
}

/// Who is calling, as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Nobody signed in.
    Anonymous,
    /// A signed-in user without further rights.
    User,
    /// A signed-in admin.
    Admin,
}

impl Caller {
    /// Every kind of caller.
    pub const ALL: [Self; 3] = [Self::Anonymous, Self::User, Self::Admin];

    /// The caller that a signed-in role makes.
    pub fn from_role(role: Role) -> Self {
        match role {
            Role::User => Self::User,
            Role::Admin => Self::Admin,
        }
    }
}

/// Whom a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// No user in particular.
    Nobody,
    /// The caller.
    Oneself,
    /// Someone else, whether they exist or not.
    Another,
}

impl Target {
    /// Every kind of target.
    pub const ALL: [Self; 3] = [Self::Nobody, Self::Oneself, Self::Another];
}

/// The answer of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed,
    /// Signing in may change the answer.
    SignInFirst,
    /// This caller may not.
    Forbidden,
    /// Not so: the caller's own password changes only for who knows it, by `auth.change_password`.
    OwnPassword,
}

/// Whether `caller` may use `method` on `target`.
pub fn may_call(caller: Caller, method: Method, target: Target) -> Verdict {
    use Method as M;
    match method {
        M::AuthRegister | M::AuthLogin | M::AuthAuthenticate | M::AuthRefresh | M::SystemInfo | M::SystemPing => {
            Verdict::Allowed
        }
        M::AuthLogout
        | M::AuthChangePassword
        | M::UsersGet
        | M::UsersGetMany
        | M::UsersList
        | M::UsersSearch
        | M::UsersSubscribe
        | M::UsersUnsubscribe
        | M::UsersChanges => signed_in(caller),
        M::AuthSessions | M::AuthEndSession | M::UsersUpdate | M::UsersDeactivate => match target {
            Target::Nobody | Target::Oneself => signed_in(caller),
            Target::Another => admin(caller),
        },
        M::UsersSetPassword => match (admin(caller), target) {
            (Verdict::Allowed, Target::Oneself) => Verdict::OwnPassword,
            (verdict, _) => verdict,
        },
        M::UsersFindByEmail | M::UsersCreate | M::UsersReactivate | M::UsersSetRole | M::UsersErase => admin(caller),
    }
}

/// Whether only the caller's role allows the call: not to be judged by what may be stale.
pub fn is_privileged(caller: Caller, method: Method, target: Target) -> bool {
    caller == Caller::Admin && may_call(Caller::User, method, target) != Verdict::Allowed
}

fn signed_in(caller: Caller) -> Verdict {
    match caller {
        Caller::Anonymous => Verdict::SignInFirst,
        Caller::User | Caller::Admin => Verdict::Allowed,
    }
}

fn admin(caller: Caller) -> Verdict {
    match caller {
        Caller::Anonymous => Verdict::SignInFirst,
        Caller::User => Verdict::Forbidden,
        Caller::Admin => Verdict::Allowed,
    }
}

/// Declares [`Field`] with its names on the wire.
macro_rules! fields {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// Every field of a user, those that never leave the gateway included.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Field {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl Field {
            /// All fields.
            pub const ALL: &[Field] = &[$(Field::$variant),+];

            /// The name on the wire and in the store.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

fields! {
    Username = "username",
    Email = "email",
    DisplayName = "display_name",
    Bio = "bio",
    AvatarUrl = "avatar_url",
    Attributes = "attributes",
    Status = "status",
    Role = "role",
    CreatedAt = "created_at",
    UpdatedAt = "updated_at",
    Rev = "rev",
    LastChange = "last_change",
    Generation = "generation",
    PasswordHash = "password_hash",
    Seq = "seq",
    PrevSeq = "prev_seq",
    Before = "before",
}

/// Whether `caller` sees `field` of `target`, in results as well as by filtering or sorting on it.
pub fn may_read(caller: Caller, field: Field, target: Target) -> bool {
    use Field as F;
    match field {
        F::Username
        | F::DisplayName
        | F::Bio
        | F::AvatarUrl
        | F::Attributes
        | F::Status
        | F::Role
        | F::CreatedAt
        | F::UpdatedAt
        | F::Rev => caller != Caller::Anonymous,
        F::Email | F::LastChange => caller == Caller::Admin || (caller == Caller::User && target == Target::Oneself),
        F::Generation | F::PasswordHash | F::Seq | F::PrevSeq | F::Before => false,
    }
}

/// Which method sets `field` from a parameter; `None` when no caller ever does.
///
/// Who may is then [`may_call`]'s answer for that method. `users.create` and `auth.register` set fields of
/// a user that does not exist yet and are listed beside.
pub fn set_by(field: Field) -> Option<Method> {
    use Field as F;
    match field {
        F::Email | F::DisplayName | F::Bio | F::AvatarUrl | F::Attributes => Some(Method::UsersUpdate),
        F::Role => Some(Method::UsersSetRole),
        F::Username
        | F::Status
        | F::CreatedAt
        | F::UpdatedAt
        | F::Rev
        | F::LastChange
        | F::Generation
        | F::PasswordHash
        | F::Seq
        | F::PrevSeq
        | F::Before => None,
    }
}

/// Whether `method` makes a new user with this `field` taken from a parameter.
///
/// The parameters of both methods are closed structs; the tests hold them against this, field by field.
pub fn set_at_creation(method: Method, field: Field) -> bool {
    use Field as F;
    match field {
        F::Username | F::Email | F::DisplayName => matches!(method, Method::AuthRegister | Method::UsersCreate),
        F::Role => method == Method::UsersCreate,
        F::Bio
        | F::AvatarUrl
        | F::Attributes
        | F::Status
        | F::CreatedAt
        | F::UpdatedAt
        | F::Rev
        | F::LastChange
        | F::Generation
        | F::PasswordHash
        | F::Seq
        | F::PrevSeq
        | F::Before => false,
    }
}
