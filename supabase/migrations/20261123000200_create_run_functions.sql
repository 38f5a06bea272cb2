-- Every change of a task or run is one of these functions, so each is one transaction. Errors a caller may see carry a
-- SQLSTATE of the form PTnnn, which PostgREST answers as HTTP status nnn.

-- ---------------------------------------------------------------------------------------------------------------- shared

create function public.chat_message(p_role text, p_content text) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'role', p_role, 'content', p_content,
        'timestamp', to_char(now() at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'))
$$;

-- Appends `[{"kind", "payload"}]` to a task's live log. Callers hold the run's row lock, so numbers have no gaps or doubles.
create function public.append_events(p_task_id bigint, p_run_id uuid, p_events jsonb) returns void
language sql set search_path = '' as $$
    insert into public.task_events (task_id, seq, run_id, kind, payload)
    select p_task_id, last.seq + e.n, p_run_id, e.event ->> 'kind', coalesce(e.event -> 'payload', '{}'::jsonb)
    from jsonb_array_elements(coalesce(p_events, '[]'::jsonb)) with ordinality as e (event, n),
        (select coalesce(max(seq), 0) as seq from public.task_events where task_id = p_task_id) as last
$$;

-- What a worker needs to know of a run it holds: the row, and where the code is.
create function public.claimed_run(p_run public.runs) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object('outcome', 'claimed', 'run', to_jsonb(p_run) || jsonb_build_object(
        'repo_url', t.repo_url, 'branch', t.target_branch,
        'setup_script', p.settings ->> 'setup_script'))
    from public.tasks t left join public.projects p on p.id = t.project_id
    where t.id = p_run.task_id
$$;

-- ----------------------------------------------------------------------------------------------------- for the signed-in user

create function public.insert_run(
    p_task_id bigint, p_kind text, p_prompt text, p_agent text, p_model text,
    p_credential jsonb, p_idempotency_key text, p_trace_id text
) returns public.runs
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_run public.runs;
begin
    -- Serialises one user's starts, so that two at once cannot both pass the limit.
    perform pg_advisory_xact_lock(hashtextextended('runs of ' || v_user, 0));
    if (select count(*) from public.runs r where r.user_id = v_user and r.status in ('queued', 'running'))
        >= (select active_per_user from public.run_limits) then
        raise sqlstate 'PT429' using message = 'too_many_active_runs';
    end if;
    if p_credential is not null then
        insert into public.user_credentials (id, user_id, kind, ciphertext, key_id, alg, hint, expires_at)
        values (
            (p_credential ->> 'id')::uuid, v_user, p_credential ->> 'kind', p_credential ->> 'ciphertext',
            p_credential ->> 'key_id', p_credential ->> 'alg', p_credential ->> 'hint', now() + interval '2 days');
    end if;
    insert into public.runs (
        task_id, user_id, kind, prompt, agent, model, git_credential_id, idempotency_key, trace_id)
    values (
        p_task_id, v_user, p_kind, p_prompt, p_agent, p_model,
        (p_credential ->> 'id')::uuid, p_idempotency_key, p_trace_id)
    returning * into v_run;
    perform public.append_events(p_task_id, v_run.id, jsonb_build_array(
        jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'queued'))));
    return v_run;
end $$;

-- A task with its first run, its sealed git token and its first event. A repeated idempotency key returns what the first
-- call made. PT404: the project is not the caller's. PT429: too many active runs.
create function public.create_task(
    p_prompt text, p_repo_url text, p_branch text, p_agent text,
    p_project_id bigint default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_run public.runs;
begin
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_project_id is not null
        and not exists (select 1 from public.projects p where p.id = p_project_id and p.user_id = v_user) then
        raise sqlstate 'PT404' using message = 'project_not_found';
    end if;
    insert into public.tasks (user_id, project_id, repo_url, target_branch, agent, chat_messages)
    values (
        v_user, p_project_id, p_repo_url, p_branch, p_agent,
        jsonb_build_array(public.chat_message('user', p_prompt)))
    returning * into v_task;
    v_run := public.insert_run(
        v_task.id, 'first', p_prompt, p_agent, p_model, p_credential, p_idempotency_key, p_trace_id);
    return jsonb_build_object('task_id', v_task.id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

-- Another run of an own task that has ended: a follow-up with a new prompt, or a retry of the last one. PT404: no such
-- task. PT409: it has a run that has not ended. PT429: too many active runs.
create function public.create_run(
    p_task_id bigint, p_kind text, p_prompt text default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_run public.runs;
    v_prompt text := p_prompt;
begin
    select * into v_task from public.tasks t where t.id = p_task_id and t.user_id = v_user for update;
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    if p_idempotency_key is not null then
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_kind not in ('follow_up', 'retry') or (p_kind = 'follow_up' and coalesce(p_prompt, '') = '') then
        raise sqlstate 'PT400' using message = 'bad_run_kind';
    end if;
    if exists (select 1 from public.runs r where r.task_id = p_task_id and r.status in ('queued', 'running')) then
        raise sqlstate 'PT409' using message = 'run_active';
    end if;
    if p_kind = 'retry' then
        select r.prompt into v_prompt from public.runs r where r.task_id = p_task_id order by r.created_at desc limit 1;
    end if;
    update public.tasks set
        status = 'pending', error = null, completed_at = null,
        chat_messages = case when p_kind = 'follow_up'
            then chat_messages || jsonb_build_array(public.chat_message('user', p_prompt)) else chat_messages end
    where id = p_task_id;
    v_run := public.insert_run(
        p_task_id, p_kind, v_prompt, v_task.agent, p_model, p_credential, p_idempotency_key, p_trace_id);
    return jsonb_build_object('task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

-- Appends one chat message in one statement, so that two at once both stay. PT404: no such task of the caller's.
create function public.append_chat_message(p_task_id bigint, p_role text, p_content text) returns void
language plpgsql security definer set search_path = '' as $$
begin
    if p_role not in ('user', 'assistant') or coalesce(p_content, '') = '' or length(p_content) > 100000 then
        raise sqlstate 'PT400' using message = 'bad_chat_message';
    end if;
    update public.tasks set chat_messages = chat_messages || jsonb_build_array(public.chat_message(p_role, p_content))
    where id = p_task_id and user_id = auth.uid();
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
end $$;

-- Asks the executor to stop a task's active run. Returns the run to nudge. PT404: no such task. PT409: it has ended.
create function public.request_cancel(p_task_id bigint) returns jsonb
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
    return jsonb_build_object('task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq);
end $$;

-- True while the caller has a Supabase session of this user agent that was refreshed within the last 70 minutes (the
-- access token lives 60). For TOKEN_EXCHANGE=session-bound.
create function public.has_live_session(p_user_agent text) returns boolean
language sql stable security definer set search_path = '' as $$
    select exists (
        select 1 from auth.sessions s
        where s.user_id = auth.uid() and s.user_agent = p_user_agent
            and (s.not_after is null or s.not_after > now())
            and coalesce(s.refreshed_at at time zone 'utc', s.created_at) > now() - interval '70 minutes')
$$;

-- ------------------------------------------------------------------------------------------------------ for the executor only

-- Takes the lease on the step that a message names. `outcome` says what the worker is to do:
--   claimed  do the step; `run` is the row with repo_url, branch and setup_script
--   waiting  not admitted yet; send the message again in `retry_in_s`
--   busy     another worker holds the lease; send the message again in `retry_in_s`
--   overdue  an old message, but its successor was never sent: send one for `seq`
--   stale, ended, unknown  nothing
create function public.claim_run(p_run_id uuid, p_seq integer, p_lease_s integer, p_run_timeout_s integer) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_limits public.run_limits;
    v_wait integer;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found then
        return jsonb_build_object('outcome', 'unknown');
    elsif v_run.status not in ('queued', 'running') then
        return jsonb_build_object('outcome', 'ended');
    elsif v_run.lease_until > now() and v_run.seq = p_seq then
        return jsonb_build_object(
            'outcome', 'busy', 'retry_in_s', ceil(extract(epoch from v_run.lease_until - now()))::integer + 1);
    elsif v_run.seq <> p_seq then
        if v_run.next_check_at <= now() and coalesce(v_run.lease_until, now()) <= now() then
            return jsonb_build_object('outcome', 'overdue', 'seq', v_run.seq);
        end if;
        return jsonb_build_object('outcome', 'stale');
    end if;

    if v_run.status = 'queued' and v_run.cancel_requested_at is null then
        perform pg_advisory_xact_lock(hashtextextended('admission', 2));
        select * into v_limits from public.run_limits;
        if (select count(*) from public.runs where status = 'running') >= v_limits.running_in_all
            or (select count(*) from public.runs where status = 'running' and user_id = v_run.user_id)
                >= v_limits.running_per_user then
            -- Asks often while the wait is young, every 30 s later on.
            v_wait := least(30, 2 + extract(epoch from now() - v_run.created_at)::integer / 10);
            update public.runs set next_check_at = now() + v_wait * interval '1 second' where id = p_run_id;
            return jsonb_build_object('outcome', 'waiting', 'retry_in_s', v_wait);
        end if;
        update public.runs set
            status = 'running', phase = 'provisioning', started_at = now(),
            deadline_at = now() + p_run_timeout_s * interval '1 second'
        where id = p_run_id;
        update public.tasks set status = 'running', started_at = now() where id = v_run.task_id;
        perform public.append_events(v_run.task_id, p_run_id, jsonb_build_array(
            jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'provisioning'))));
    end if;

    update public.runs set
        fence = fence + 1, attempt = attempt + 1, lease_until = now() + p_lease_s * interval '1 second'
    where id = p_run_id returning * into v_run;
    return public.claimed_run(v_run);
end $$;

-- Takes a run away from whoever holds it, whatever its step: for dead letters. `outcome`: claimed, ended or unknown.
create function public.seize_run(p_run_id uuid, p_lease_s integer) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    update public.runs set fence = fence + 1, lease_until = now() + p_lease_s * interval '1 second'
    where id = p_run_id and status in ('queued', 'running') returning * into v_run;
    if found then
        return public.claimed_run(v_run);
    end if;
    return jsonb_build_object(
        'outcome', case when exists (select 1 from public.runs where id = p_run_id) then 'ended' else 'unknown' end);
end $$;

-- Saves a step: changed columns, new events, the next step's number and time; gives the lease back. Returns the next seq,
-- or null when the fence has moved on and nothing was written. Absent keys of p_changes stay as they are.
create function public.advance_run(
    p_run_id uuid, p_fence integer, p_changes jsonb, p_events jsonb, p_check_in_s integer
) returns integer
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_new public.runs;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status not in ('queued', 'running') then
        return null;
    end if;
    v_new := jsonb_populate_record(v_run, p_changes);
    update public.runs set
        phase = v_new.phase, attempt = v_new.attempt, sandbox_id = v_new.sandbox_id,
        agent_session_id = v_new.agent_session_id, base_commit = v_new.base_commit,
        output_offset = v_new.output_offset, reader_state = v_new.reader_state, usage = v_new.usage,
        exit_code = v_new.exit_code, error_code = v_new.error_code, error = v_new.error,
        seq = seq + 1, lease_until = null, next_check_at = now() + p_check_in_s * interval '1 second'
    where id = p_run_id returning * into v_new;
    if v_new.sandbox_id is distinct from v_run.sandbox_id then
        update public.tasks set container_id = v_new.sandbox_id where id = v_run.task_id;
    end if;
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return v_new.seq;
end $$;

-- Ends a run and its task: status, results, files, the assistant's chat message, last events; deletes the run's sealed git
-- token. False when the fence has moved on and nothing was written. Keys of p_result: commit_hash, git_diff, git_patch,
-- changed_files, execution_metadata; absent ones leave the row as it is.
create function public.finish_run(
    p_run_id uuid, p_fence integer, p_status public.run_status, p_error_code text default null, p_error text default null,
    p_result jsonb default '{}', p_files jsonb default '[]', p_message text default '', p_events jsonb default '[]'
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    if p_status not in ('completed', 'failed', 'cancelled') then
        raise sqlstate 'PT400' using message = 'not_a_final_status';
    end if;
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status not in ('queued', 'running') then
        return false;
    end if;
    update public.runs set
        status = p_status, phase = 'done', error_code = p_error_code, error = p_error, finished_at = now(),
        seq = seq + 1, lease_until = null
    where id = p_run_id;
    update public.tasks set
        status = p_status::text::public.task_status, error = p_error, completed_at = now(),
        commit_hash = case when p_result ? 'commit_hash' then p_result ->> 'commit_hash' else commit_hash end,
        git_diff = case when p_result ? 'git_diff' then p_result ->> 'git_diff' else git_diff end,
        git_patch = case when p_result ? 'git_patch' then p_result ->> 'git_patch' else git_patch end,
        changed_files = coalesce(p_result -> 'changed_files', changed_files),
        execution_metadata = execution_metadata || coalesce(p_result -> 'execution_metadata', '{}'::jsonb),
        chat_messages = case when coalesce(p_message, '') = '' then chat_messages
            else chat_messages || jsonb_build_array(public.chat_message('assistant', p_message)) end
    where id = v_run.task_id;
    insert into public.task_files (
        run_id, task_id, path, previous_path, status, mode, before, after, encoding, size, truncated)
    select p_run_id, v_run.task_id, f.path, f.previous_path, f.status, f.mode, f.before, f.after,
        coalesce(f.encoding, 'utf-8'), coalesce(f.size, 0), coalesce(f.truncated, false)
    from jsonb_populate_recordset(null::public.task_files, coalesce(p_files, '[]'::jsonb)) as f
    on conflict (run_id, path) do nothing;
    delete from public.user_credentials where id = v_run.git_credential_id;
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return true;
end $$;

-- Runs whose next step is overdue by p_grace_s seconds and held by nobody: their message was lost. Each is named once per
-- grace period, so that a backlog is not multiplied.
create function public.due_runs(p_grace_s integer, p_limit integer)
returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language sql set search_path = '' as $$
    update public.runs r set next_check_at = now()
    from (
        select id from public.runs
        where status in ('queued', 'running')
            and next_check_at < now() - p_grace_s * interval '1 second'
            and (lease_until is null or lease_until < now())
        order by next_check_at limit p_limit for update skip locked
    ) due
    where r.id = due.id
    returning r.id, r.task_id, r.user_id, r.seq, r.trace_id
$$;

-- Deletes sealed secrets that have expired or whose run has ended. Returns how many.
create function public.expire_credentials() returns integer
language sql set search_path = '' as $$
    with gone as (
        delete from public.user_credentials c
        where c.expires_at < now()
            or exists (
                select 1 from public.runs r
                where r.git_credential_id = c.id and r.status not in ('queued', 'running'))
        returning 1)
    select count(*)::integer from gone
$$;

-- ------------------------------------------------------------------------------------------------------------------- rights

revoke all on function
    public.chat_message(text, text),
    public.append_events(bigint, uuid, jsonb),
    public.claimed_run(public.runs),
    public.insert_run(bigint, text, text, text, text, jsonb, text, text),
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text),
    public.create_run(bigint, text, text, text, jsonb, text, text),
    public.append_chat_message(bigint, text, text),
    public.request_cancel(bigint),
    public.has_live_session(text),
    public.claim_run(uuid, integer, integer, integer),
    public.seize_run(uuid, integer),
    public.advance_run(uuid, integer, jsonb, jsonb, integer),
    public.finish_run(uuid, integer, public.run_status, text, text, jsonb, jsonb, text, jsonb),
    public.due_runs(integer, integer),
    public.expire_credentials()
    from public, anon, authenticated;

grant execute on function
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text),
    public.create_run(bigint, text, text, text, jsonb, text, text),
    public.append_chat_message(bigint, text, text),
    public.request_cancel(bigint),
    public.has_live_session(text)
    to authenticated;

grant execute on function
    public.chat_message(text, text),
    public.append_events(bigint, uuid, jsonb),
    public.claimed_run(public.runs),
    public.claim_run(uuid, integer, integer, integer),
    public.seize_run(uuid, integer),
    public.advance_run(uuid, integer, jsonb, jsonb, integer),
    public.finish_run(uuid, integer, public.run_status, text, text, jsonb, jsonb, text, jsonb),
    public.due_runs(integer, integer),
    public.expire_credentials()
    to service_role;
