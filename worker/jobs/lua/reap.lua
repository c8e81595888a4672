-- Takes a running job from an attempt whose lease ran out or vanished.
-- ARGV: id, exec or '' for whichever holds it, registry of leases
-- Returns requeue | ended | stale.
local id, exec, wip = ARGV[1], ARGV[2], ARGV[3]
local holder = field(id, 'exec')
if field(id, 'state') ~= 'in_progress' or (exec ~= '' and holder ~= exec) then
  return 'stale'
end
if leased(wip, id, holder) then
  return 'stale'
end
return give_back(id, 'the lease ran out', true)
