-- What a user may do to a task that was started: cancel it, have it done again, ask for more. The sandbox of a run that has
-- ended may be kept, paused, for whatever comes next; the run that comes next takes it over.

alter table public.runs add column kept_until timestamptz;
comment on column public.runs.kept_until is 'its sandbox is kept, paused, until then, unless the next run takes it over first';
create index idx_runs_sandbox_id on public.runs (sandbox_id) where sandbox_id is not null;

-- Asks the executor to stop a task's active run. Returns the run to nudge, and whether a step is at work, which does not
-- know of this yet. PT404: no such task. PT409: it has ended.
create or replace function public.request_cancel(p_task_id bigint) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_run public.runs;
begin
    if not exists (select 1 from public.tasks t where t.id = p_task_id and t.user_id = auth.uid()) then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    update public.runs set cancel_requested_at = coalesce(cancel_requested_at, now())
    where task_id = p_task_id and user_id = auth.uid() and status in ('queued', 'running')
    returning * into v_run;
    if not found then
        raise sqlstate 'PT409' using message = 'task_ended';
    end if;
    return jsonb_build_object(
        'task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq,
        'at_work', coalesce(v_run.lease_until > now(), false));
end $$;

-- Replaced rather than overloaded: PostgREST must find exactly one function of a name for the arguments it is given.
drop function public.create_run(bigint, text, text, text, jsonb, text, text);

-- Another run of an own task that has ended: a follow-up with a new prompt, or a retry of the last one. It takes over the
-- sandbox that was kept, if there is one; a follow-up also the agent's session there, and the commit that all changes are
-- counted from. A repeated idempotency key returns what the first call made. PT404: no such task. PT409: it has a run that
-- has not ended, its chat is full, or another request was made under this key. PT429: a limit.
create function public.create_run(
    p_task_id bigint, p_kind text, p_prompt text default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_last public.runs;
    v_run public.runs;
    v_goes_on boolean := p_kind = 'follow_up';
begin
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
    end if;
    select * into v_task from public.tasks t where t.id = p_task_id and t.user_id = v_user for update;
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    if p_idempotency_key is not null then
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_kind not in ('follow_up', 'retry') or (v_goes_on and coalesce(p_prompt, '') = '') then
        raise sqlstate 'PT400' using message = 'bad_run_kind';
    end if;
    if exists (select 1 from public.runs r where r.task_id = p_task_id and r.status in ('queued', 'running')) then
        raise sqlstate 'PT409' using message = 'run_active';
    end if;
    if v_goes_on and octet_length(coalesce(v_task.chat_messages, '[]'::jsonb)::text) >= 2000000 then
        raise sqlstate 'PT409' using message = 'chat_full';
    end if;
    select * into v_last from public.runs r where r.task_id = p_task_id order by r.created_at desc limit 1;
    if not found and not v_goes_on then
        raise sqlstate 'PT409' using message = 'nothing_to_retry';
    end if;
    update public.tasks set
        status = 'pending', error = null, completed_at = null,
        chat_messages = case when v_goes_on
            then coalesce(chat_messages, '[]'::jsonb) || jsonb_build_array(public.chat_message('user', p_prompt))
            else chat_messages end
    where id = p_task_id;
    v_run := public.insert_run(
        p_task_id, p_kind, case when v_goes_on then p_prompt else v_last.prompt end, v_task.agent,
        coalesce(p_model, v_last.model), p_credential, p_idempotency_key, p_trace_id);
    update public.runs set
        request_hash = p_request_hash,
        base_commit = case when v_goes_on then v_task.execution_metadata ->> 'base_commit' end
    where id = v_run.id;
    if v_last.kept_until > now() then
        update public.runs set
            sandbox_id = v_last.sandbox_id,
            agent_session_id = case when v_goes_on then v_last.agent_session_id end,
            reader_state = case when v_goes_on then v_last.reader_state else '{}'::jsonb end
        where id = v_run.id;
        update public.runs set kept_until = null where id = v_last.id;
    end if;
    return jsonb_build_object('task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

-- The newest run of an own task: {"run_id", "phase", "queue_position"}, each null where there is none. `phase` is there
-- while it is active; `queue_position`, while it is queued: how many runs, of whomever, get a sandbox before it as things
-- are. Users take turns: a user's second waiting run would be the user's (running + 2)nd sandbox, and is counted as such.
create function public.run_progress(p_task_id bigint) returns jsonb
language sql stable security definer set search_path = '' as $$
    select coalesce((
        select jsonb_build_object(
            'run_id', r.id,
            'phase', case when r.status in ('queued', 'running') then r.phase end,
            'queue_position', case when r.status = 'queued' then (
                with busy as (
                    select b.user_id, count(*) as sandboxes from public.runs b where b.status = 'running' group by b.user_id
                ), line as (
                    select q.id, q.created_at,
                        coalesce(b.sandboxes, 0)
                            + row_number() over (partition by q.user_id order by q.created_at, q.id) as nth
                    from public.runs q left join busy b on b.user_id = q.user_id where q.status = 'queued'
                )
                select count(*) from line other, line own
                where own.id = r.id and (other.nth, other.created_at, other.id) < (own.nth, own.created_at, own.id)) end)
        from public.runs r where r.task_id = p_task_id and r.user_id = auth.uid()
        order by r.created_at desc limit 1
    ), '{"run_id": null, "phase": null, "queue_position": null}'::jsonb)
$$;
create index idx_runs_task_id on public.runs (task_id, created_at desc);
create index idx_runs_queued on public.runs (created_at, id) where status = 'queued';

-- finish_run, and the run's sandbox is kept for p_keep_s seconds.
create function public.finish_run_keeping_sandbox(
    p_keep_s integer, p_run_id uuid, p_fence integer, p_status public.run_status,
    p_error_code text default null, p_error text default null, p_result jsonb default '{}',
    p_files jsonb default '[]', p_message text default '', p_events jsonb default '[]'
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not public.finish_run(
        p_run_id => p_run_id, p_fence => p_fence, p_status => p_status, p_error_code => p_error_code,
        p_error => p_error, p_result => p_result, p_files => p_files, p_message => p_message, p_events => p_events
    ) then
        return false;
    end if;
    update public.runs set kept_until = now() + p_keep_s * interval '1 second' where id = p_run_id;
    return true;
end $$;

-- Which of these sandboxes somebody still needs, as an array of their ids. p_sandboxes: {id: the run it was made for}.
create function public.needed_sandboxes(p_sandboxes jsonb) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(s.key), '[]'::jsonb)
    from jsonb_each_text(p_sandboxes) as s
    where exists (
            select 1 from public.runs r where r.id = s.value::uuid and r.status in ('queued', 'running'))
        or exists (
            select 1 from public.runs r
            where r.sandbox_id = s.key and (r.status in ('queued', 'running') or r.kept_until > now()))
$$;

revoke all on function
    public.request_cancel(bigint),
    public.create_run(bigint, text, text, text, jsonb, text, text, text),
    public.run_progress(bigint),
    public.finish_run_keeping_sandbox(
        integer, uuid, integer, public.run_status, text, text, jsonb, jsonb, text, jsonb),
    public.needed_sandboxes(jsonb)
    from public, anon, authenticated;
grant execute on function
    public.request_cancel(bigint),
    public.create_run(bigint, text, text, text, jsonb, text, text, text),
    public.run_progress(bigint)
    to authenticated;
grant execute on function
    public.finish_run_keeping_sandbox(
        integer, uuid, integer, public.run_status, text, text, jsonb, jsonb, text, jsonb),
    public.needed_sandboxes(jsonb)
    to service_role;
