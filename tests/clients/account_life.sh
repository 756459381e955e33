#!/usr/bin/env bash
# The whole life of an account with nothing but curl and jq, as a script of an operator would live it.
#
#   account_life.sh URL GATEWAY
#
# GATEWAY is the program whose `admin create` makes the admin while the gateway at URL runs. The first answer that is not
# the expected one ends the run.
set -euo pipefail

url=$1
gateway=$2
passed=0
trap 'status=$?; ((status == 0)) || echo "$passed passed, 1 failed"' EXIT

# ask STATUS METHOD PATH [TOKEN [BODY]]: leaves the body of the answer in $answer.
ask() {
    local wanted=$1 method=$2 path=$3 token=${4-} body=${5-} status
    local arguments=(--silent --show-error --max-time 10 --request "$method" --write-out '\n%{http_code}')
    [[ -z $token ]] || arguments+=(--header "Authorization: Bearer $token")
    [[ -z $body ]] || arguments+=(--header 'Content-Type: application/json' --data "$body")
    answer=$(curl "${arguments[@]}" "$url$path")
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    [[ $status == "$wanted" ]] || fail "$method $path gave $status instead of $wanted: $answer"
}

# rpc TOKEN METHOD PARAMS: a call over POST /rpc.
rpc() {
    ask 200 POST /rpc "$1" "$(jq -cn --arg method "$2" --argjson params "$3" \
        '{jsonrpc: "2.0", id: 1, method: $method, params: $params}')"
}

# expect SENTENCE JQ-CONDITION: what $answer must fulfil.
expect() {
    jq -e "$2" <<<"${answer:-null}" >/dev/null || fail "$1: $answer does not fulfil $2"
    passed=$((passed + 1))
    echo "ok     $1"
}

token() { jq -r "${1-}.tokens.access_token" <<<"$answer"; }

fail() {
    echo "FAILED $1" >&2
    exit 1
}

ask 201 POST /auth/register '' '{"username":"alice","email":"alice@example.org","password":"plenty of tea at four"}'
expect 'alice registers' '.user.username == "alice" and .user.rev == 1 and .session.current'
alice=$(token)
ask 201 POST /auth/register '' '{"username":"bob","email":"bob@example.org","password":"seven bricks and a spade"}'
expect 'bob registers' '.tokens.token_type == "Bearer"'
bob=$(token)

ask 409 POST /auth/register '' '{"username":"Alice","email":"eve@example.org","password":"whatever the weather"}'
expect 'a taken name is told' '.code == 1202 and .kind == "already_exists" and .field == "username"'

ask 200 GET /users/me "$alice"
expect 'alice sees her address' '.user.email == "alice@example.org"'
ask 200 PATCH /users/me "$alice" '{"display_name":"Alice Liddell","attributes":{"team":"blue"},"if_rev":1}'
expect 'alice changes her profile' '.user.rev == 2 and .user.attributes == {"team": "blue"}'
ask 409 PATCH /users/me "$alice" '{"display_name":"Late","if_rev":1}'
expect 'a late change is refused' '.code == 1203 and .current_rev == 2'

ask 200 GET /users/alice "$bob"
expect 'bob sees the public form' '.user.display_name == "Alice Liddell" and (.user | has("email") | not)'
ask 200 GET '/users?q=lidell' "$bob"
expect 'bob finds her in spite of a typo' '[.hits[].user.username] == ["alice"]'
ask 200 GET '/users?sort=-username&limit=1' "$bob"
expect 'bob lists the first page' '[.users[].username] == ["bob"] and .next_cursor != null'
ask 200 GET "/users?sort=-username&limit=1&cursor=$(jq -r '.next_cursor | @uri' <<<"$answer")" "$bob"
expect 'bob lists the second page' '[.users[].username] == ["alice"]'
ask 403 DELETE /admin/users/alice "$bob"
expect 'bob is no admin' '.code == 1101'

"$gateway" admin create carol --email carol@example.org --password-stdin <<<'keys on a heavy ring'
rpc '' auth.login '{"login":"carol","password":"keys on a heavy ring"}'
expect 'carol, made on the command line, is an admin' '.result.user.role == "admin"'
carol=$(token .result)
rpc "$carol" users.find_by_email '{"email":"BOB@example.org"}'
expect 'carol finds bob by address' '.result.user.username == "bob"'
rpc "$carol" users.set_role '{"username":"bob","role":"admin"}'
expect 'carol makes bob an admin' '.result.user.role == "admin"'
ask 401 GET /users/me "$bob"
expect 'which ends his old sessions' '.code == 1004'
rpc "$carol" users.set_password '{"username":"bob","new_password":"a spade but no bricks"}'
expect 'carol sets his password' '.result.sessions_ended == 0'
ask 200 POST /auth/login '' '{"login":"bob","password":"a spade but no bricks"}'
expect 'he signs in with it' '.user.role == "admin"'
ask 204 DELETE /admin/users/bob "$carol"
ask 401 POST /auth/login '' '{"login":"bob","password":"a spade but no bricks"}'
expect 'deactivated, he does not' '.code == 1005'
rpc "$carol" users.erase '{"username":"bob"}'
rpc "$carol" users.get '{"username":"bob"}'
expect 'erased, he leaves the name' '.result.user.status == "erased" and .result.user.email == null'

ask 204 DELETE /users/me "$alice"
ask 401 GET /users/me "$alice"
expect 'alice leaves, and her token is no good any more' '.code == 1004'
ask 401 POST /rpc "$alice" '{"jsonrpc":"2.0","id":1,"method":"users.list"}'
expect 'nor over JSON-RPC' '.error.code == 1004'

echo "$passed passed, 0 failed"
