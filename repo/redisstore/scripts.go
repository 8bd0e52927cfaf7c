package redisstore

import (
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// grace is how long a record stays after its ExpiresAt. repo.Grace is the
	// least; an hour lets a person who comes back from lunch be told that the
	// sign-in is over and why, and its tokens be revoked.
	grace = time.Hour

	// An index entry holds until its record must have gone, and for a quarter of
	// the record's life more, within these bounds: signs of life then move the
	// record's end many times before the entry has to follow.
	leastSlack = 2 * time.Minute
	mostSlack  = 24 * time.Hour

	// skew is how far the clocks of two nodes of a Cluster may be apart without
	// an index forgetting a device that is there.
	skew = time.Minute
)

// Each script is one atomic step on one key, or on two in one slot, so that it is
// valid in a Cluster.
// It looks first whether the record is there: a write to one that has just gone
// would make a hash that never expires. It returns a list whose first item says
// how it went. Numbers are written with %d, since Lua prints large ones as
// 1.8e+12. The clock is the server's.
//
// A script may be run twice, when its answer is lost and the client sends it
// again. The steps that depend on what was there before leave a mark of the
// call in the record and know it again: "entry" at sign-ins, "write" at
// refreshes.
type script struct{ text, hash string }

func newScript(text string) *script {
	text = prelude + text
	return &script{text, redis.NewScript(text).Hash()}
}

var prelude = fmt.Sprintf(`
local GRACE, LEAST, MOST, SKEW = %d, %d, %d, %d
local NEVER = %d -- the zero time, which has no field
local key = KEYS[1]

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function int(n) return string.format('%%d', n) end

local function get(...) return redis.call('HMGET', key, ...) end

-- set writes pairs of field and value; an empty value is no field
local function set(pairs, first)
  for i = first, #pairs, 2 do
    if pairs[i + 1] == '' then redis.call('HDEL', key, pairs[i])
    else redis.call('HSET', key, pairs[i], pairs[i + 1]) end
  end
end

-- keep comes before writes that keep people signed in. A server that is full
-- lets a script through if its first write takes no memory
local function keep() redis.call('HDEL', key, '') end

-- goes is when the server removes a record that ends at the given time
local function goes(ends) return math.max(tonumber(ends), clock()) + GRACE end

-- indexed is what the caller has to know to write the index entries anew
local function indexed(status)
  return {status, unpack(get('entry', 'issuer', 'subject', 'email', 'email_verified', 'oidc_sid'))}
end

-- whole adds all fields and values to a status
local function whole(status)
  local all = redis.call('HGETALL', key)
  table.insert(all, 1, status)
  return all
end
`, grace.Milliseconds(), leastSlack.Milliseconds(), mostSlack.Milliseconds(), skew.Milliseconds(), time.Time{}.UnixMilli())

var (
	// index: entry, end of its record, 'new' or 'known'. It returns until when the
	// record is sure to be found by the entry.
	indexScript = newScript(`
local now = clock()
local ends = math.max(tonumber(ARGV[2]), now)
local score = ends + GRACE + math.min(math.max((ends - now) / 4, LEAST), MOST)
if ARGV[3] == 'known' then redis.call('ZREM', key, '') end -- as in keep
redis.call('ZADD', key, 'GT', int(score), ARGV[1])
redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. int(now))
local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
redis.call('PEXPIREAT', key, int(tonumber(last[2])))
return {'ok', int(score - SKEW)}
`)

	// create: entry, end, indexed until, fields.
	createScript = newScript(`
if redis.call('EXISTS', key) == 1 then
  return {get('entry')[1] == ARGV[1] and 'ok' or 'exists'}
end
local gone = goes(ARGV[2])
if gone > tonumber(ARGV[3]) then return {'index'} end
redis.call('HSET', key, 'entry', ARGV[1], 'indexed_until', ARGV[3], unpack(ARGV, 4))
redis.call('PEXPIREAT', key, int(gone))
return {'ok'}
`)

	// overwrite: entry, end, indexed until, version it is based on, channel,
	// event, fields. It returns where the old entries are.
	overwriteScript = newScript(`
local r = get('version', 'entry')
if not r[1] then return {'missing'} end
if r[1] ~= ARGV[4] then return {r[2] == ARGV[1] and 'again' or 'conflict'} end
local gone = goes(ARGV[2])
if gone > tonumber(ARGV[3]) then return {'index'} end
local old = indexed('ok')
redis.call('DEL', key)
redis.call('HSET', key, 'entry', ARGV[1], 'indexed_until', ARGV[3], unpack(ARGV, 7))
redis.call('PEXPIREAT', key, int(gone))
redis.call('PUBLISH', ARGV[5], ARGV[6])
return old
`)

	// replace: mark of the call, version it is based on, lease owner, end, entry
	// and until when it is indexed anew, channel, event, fields. It returns the
	// entry that the record has.
	replaceScript = newScript(`
local r = get('version', 'write', 'lease_owner', 'entry', 'indexed_until')
if not r[1] then return {'missing'} end
if r[1] ~= ARGV[2] then
  return {r[2] == ARGV[1] and tonumber(r[1]) == tonumber(ARGV[2]) + 1 and 'ok' or 'conflict', r[4]}
end
local covered = tonumber(r[5])
if r[4] == ARGV[5] then covered = math.max(covered, tonumber(ARGV[6])) end
local gone = goes(ARGV[4])
if gone > covered then return indexed('index') end
keep()
set(ARGV, 9)
redis.call('HSET', key, 'write', ARGV[1], 'expires_at', ARGV[4], 'indexed_until', int(covered))
redis.call('HINCRBY', key, 'version', 1)
if r[3] == ARGV[3] then redis.call('HDEL', key, 'lease_owner', 'lease_until') end
redis.call('PEXPIREAT', key, int(gone))
redis.call('PUBLISH', ARGV[7], ARGV[8])
return {'ok', r[4]}
`)

	// touch: seen at, address, end, entry and until when it is indexed anew. It
	// returns the entry that the record has.
	touchScript = newScript(`
local r = get('version', 'last_seen_at', 'expires_at', 'entry', 'indexed_until')
if not r[1] then return {'missing'} end
keep()
if tonumber(r[3] or NEVER) < tonumber(ARGV[3]) then
  local covered = tonumber(r[5])
  if r[4] == ARGV[4] then covered = math.max(covered, tonumber(ARGV[5])) end
  local gone = goes(ARGV[3])
  if gone > covered then return indexed('index') end
  redis.call('HSET', key, 'expires_at', ARGV[3], 'indexed_until', int(covered))
  redis.call('PEXPIREAT', key, int(gone))
end
if tonumber(r[2] or NEVER) < tonumber(ARGV[1]) then
  set({'last_seen_at', ARGV[1], 'last_seen_ip', ARGV[2]}, 1)
end
return {'ok', r[4]}
`)

	// rename: name, channel, event.
	renameScript = newScript(`
if not get('version')[1] then return {'missing'} end
set({'name', ARGV[1]}, 1)
redis.call('PUBLISH', ARGV[2], ARGV[3])
return {'ok'}
`)

	// delete: version or '0', channel, event, pairs of a field and the value that
	// it must have. It returns what went.
	deleteScript = newScript(`
local r = get('version')
if not r[1] then return {'missing'} end
if ARGV[1] ~= '0' and ARGV[1] ~= r[1] then return {'conflict'} end
for i = 4, #ARGV, 2 do
  if (get(ARGV[i])[1] or '') ~= ARGV[i + 1] then return {'missing'} end
end
local all = whole('ok')
redis.call('DEL', key)
redis.call('PUBLISH', ARGV[2], ARGV[3])
return all
`)

	// takeLease: owner, milliseconds. It returns the record as it then is.
	takeLeaseScript = newScript(`
local r = get('version', 'lease_owner', 'lease_until')
if not r[1] then return {'missing'} end
local now = clock()
if r[2] and r[2] ~= ARGV[1] and tonumber(r[3]) > now then return whole('held') end
keep()
redis.call('HSET', key, 'lease_owner', ARGV[1], 'lease_until', int(now + tonumber(ARGV[2])))
return whole('ok')
`)

	// renewLease: owner, milliseconds.
	renewLeaseScript = newScript(`
local r = get('version', 'lease_owner', 'lease_until')
if not r[1] then return {'missing'} end
local now = clock()
if r[2] ~= ARGV[1] or tonumber(r[3]) <= now then return {'lost'} end
keep()
redis.call('HSET', key, 'lease_until', int(now + tonumber(ARGV[2])))
return {'ok'}
`)

	// releaseLease: owner.
	releaseLeaseScript = newScript(`
if get('lease_owner')[1] == ARGV[1] then redis.call('HDEL', key, 'lease_owner', 'lease_until') end
return {'ok'}
`)

	// spend: mark of the call, until when.
	spendScript = newScript(`
local by = redis.call('GET', key)
if by then return {by == ARGV[1] and 'ok' or 'exists'} end
if tonumber(ARGV[2]) > clock() then redis.call('SET', key, ARGV[1], 'PXAT', ARGV[2]) end
return {'ok'}
`)

	// queue, on the schedule and a revocation: id, when it is to be tried, end,
	// fields.
	queueScript = newScript(`
redis.call('ZREM', key, '') -- as in keep
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], unpack(ARGV, 4))
redis.call('PEXPIREAT', KEYS[2], int(goes(ARGV[3])))
redis.call('ZADD', key, ARGV[2], ARGV[1])
return {'ok'}
`)

	// claim, on the schedule: now, until, limit. It returns the ids.
	claimScript = newScript(`
local ids = redis.call('ZRANGEBYSCORE', key, '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do redis.call('ZADD', key, ARGV[2], id) end
table.insert(ids, 1, 'ok')
return ids
`)

	// finish, on the schedule and a revocation: id.
	finishScript = newScript(`
redis.call('ZREM', key, ARGV[1])
redis.call('DEL', KEYS[2])
return {'ok'}
`)

	// unschedule, on the schedule and a revocation: id. It does what is left to do
	// for one that has expired.
	unscheduleScript = newScript(`
if redis.call('EXISTS', KEYS[2]) == 0 then redis.call('ZREM', key, ARGV[1]) end
return {'ok'}
`)

	// ping: channel, message.
	pingScript = newScript(`
redis.call('SET', key, '1', 'PX', 60000)
redis.call('PUBLISH', ARGV[1], ARGV[2])
return {'ok'}
`)

	// publish: channel, message. The key only says which node of a Cluster does it.
	publishScript = newScript(`
redis.call('PUBLISH', ARGV[1], ARGV[2])
return {'ok'}
`)
)
