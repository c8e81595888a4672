-- Jobs of one tenant that ask for the same film share one run. The first is their leader: its id
-- stands at SHARE while it waits, runs, and after it completed. Those that come meanwhile follow
-- it: rows of their own, `queued`, in no line. A worker gives each a copy of what the leader made;
-- if the leader ends otherwise, its first follower takes its place.

-- The waiting or running job that a new one may follow, or nil. Not one of another queue that
-- still waits: it may be served much later than the new one.
local function leader_for(tenant, share, queue)
  local id = share ~= '' and redis.call('GET', SHARE .. tenant .. ':' .. share)
  if not id then
    return nil
  end
  local row = redis.call('HMGET', JOB .. id, 'state', 'queue', 'cancel', 'deleted', 'leader')
  local leads = row[3] ~= '1' and row[4] ~= '1' and (row[5] or '') == ''
  if leads and (row[1] == 'in_progress' or (row[1] == 'queued' and row[2] == queue)) then
    return id
  end
  return nil
end

local function follow(id, leader)
  redis.call('HSET', JOB .. id, 'leader', leader)
  redis.call('ZADD', FOLLOWERS .. leader, field(id, 'created_at'), id)
end

-- Whether the id waits for another job's film; one whose leader is gone waits no longer.
local function follows(id)
  local leader = field(id, 'leader') or ''
  if leader == '' then
    return false
  end
  local row = redis.call('HMGET', JOB .. leader, 'state', 'result')
  local done = row[1] == 'completed' and row[2]
  if done or row[1] == 'queued' or row[1] == 'in_progress' then
    follow(id, leader)
    if done then
      redis.call('ZADD', HANDOUT, 'NX', stamp(now()), leader)
    end
    return true
  end
  redis.call('ZREM', FOLLOWERS .. leader, id)
  redis.call('HSET', JOB .. id, 'leader', '')
  return false
end

-- Where the leader waits, or else next of its tenant's line: no other tenant waits longer for it.
local function take_place(leader, heir)
  local queue, tenant = field(heir, 'queue'), field(heir, 'tenant')
  local line = line_of(queue, tenant)
  local place, turn = redis.call('LPOS', queue, leader), redis.call('LPOS', line, leader)
  if place and turn then
    redis.call('LSET', queue, place, heir)
    redis.call('LSET', line, turn, heir)
    return
  end
  join(heir, false)
  redis.call('LMOVE', line, line, 'RIGHT', 'LEFT')
end

-- The first follower of a job that made nothing leads the others from now on.
local function promote(id)
  local followers, heir = redis.call('ZRANGE', FOLLOWERS .. id, 0, -1), nil
  redis.call('DEL', FOLLOWERS .. id)
  for _, follower in ipairs(followers) do
    if field(follower, 'state') == 'queued' and field(follower, 'leader') == id then
      if heir then
        follow(follower, heir)
      else
        heir = follower
        redis.call('HSET', JOB .. heir, 'leader', '')
      end
    end
  end
  local share = SHARE .. (field(id, 'tenant') or '') .. ':' .. (field(id, 'share') or '')
  if redis.call('GET', share) == id then
    redis.call('DEL', share)
    if heir then
      redis.call('SET', share, heir)
    end
  end
  if heir then
    take_place(id, heir)
  end
end

hand_on = function(id, state)
  local leader = field(id, 'leader') or ''
  if leader ~= '' then
    redis.call('ZREM', FOLLOWERS .. leader, id)
    if redis.call('EXISTS', FOLLOWERS .. leader) == 0 then
      redis.call('ZREM', HANDOUT, leader)
    end
  end
  if state ~= 'completed' then
    promote(id)
    return
  end
  if redis.call('EXISTS', FOLLOWERS .. id) == 1 then
    redis.call('ZADD', HANDOUT, stamp(now()), id)
  end
  local share = field(id, 'share') or ''
  if share ~= '' then
    local key = SHARE .. field(id, 'tenant') .. ':' .. share
    if redis.call('GET', key) == id then
      redis.call('EXPIRE', key, field(id, 'result_ttl'))
    end
  end
end
