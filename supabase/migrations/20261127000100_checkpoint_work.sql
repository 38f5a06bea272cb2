-- While an agent works, what it has changed is saved every few minutes, in the same places as a run's result: a run that
-- ends without one leaves its last checkpoint as the task's diff, patch and files.

alter table public.runs add column checkpoint jsonb not null default '{}'::jsonb;
comment on column public.runs.checkpoint is
    'number of the last one, begun_s, running; tree, saved_s and files of the last one that was saved. Seconds of the run''s age';

-- What a run has changed, into its task and its files. Keys of p_result: commit_hash, git_diff, git_patch, changed_files,
-- execution_metadata; absent ones leave the row as it is. The files replace those of the run before.
create function public.store_result(p_run public.runs, p_result jsonb, p_files jsonb) returns void
language plpgsql set search_path = '' as $$
begin
    update public.tasks set
        commit_hash = case when p_result ? 'commit_hash' then p_result ->> 'commit_hash' else commit_hash end,
        git_diff = case when p_result ? 'git_diff' then p_result ->> 'git_diff' else git_diff end,
        git_patch = case when p_result ? 'git_patch' then p_result ->> 'git_patch' else git_patch end,
        changed_files = coalesce(p_result -> 'changed_files', changed_files),
        execution_metadata = execution_metadata || coalesce(p_result -> 'execution_metadata', '{}'::jsonb)
    where id = p_run.task_id;
    delete from public.task_files where run_id = p_run.id;
    insert into public.task_files (
        run_id, task_id, path, previous_path, status, mode, before, after, encoding, size, truncated)
    select p_run.id, p_run.task_id, f.path, f.previous_path, f.status, f.mode, f.before, f.after,
        coalesce(f.encoding, 'utf-8'), coalesce(f.size, 0), coalesce(f.truncated, false)
    from jsonb_populate_recordset(null::public.task_files, coalesce(p_files, '[]'::jsonb)) as f
    on conflict (run_id, path) do nothing;
end $$;

-- Saves what the run's agent has changed so far. False when the fence has moved on and nothing was written.
create function public.save_checkpoint(p_run_id uuid, p_fence integer, p_result jsonb, p_files jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status <> 'running' then
        return false;
    end if;
    perform public.store_result(v_run, p_result, p_files);
    return true;
end $$;

-- As before; a step may also change the run's checkpoint.
create or replace function public.advance_run(
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
        checkpoint = v_new.checkpoint,
        exit_code = v_new.exit_code, error_code = v_new.error_code, error = v_new.error,
        seq = seq + 1, lease_until = null, next_check_at = now() + p_check_in_s * interval '1 second'
    where id = p_run_id returning * into v_new;
    if v_new.sandbox_id is distinct from v_run.sandbox_id then
        update public.tasks set container_id = v_new.sandbox_id where id = v_run.task_id;
    end if;
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return v_new.seq;
end $$;

-- As before, but without p_result the last checkpoint stays; and the sealed git token of a run that ended as `internal` is
-- left until it expires, since such a run may be replayed.
create or replace function public.finish_run(
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
        chat_messages = case when coalesce(p_message, '') = '' then chat_messages
            else chat_messages || jsonb_build_array(public.chat_message('assistant', p_message)) end
    where id = v_run.task_id;
    if coalesce(p_result, '{}'::jsonb) <> '{}'::jsonb then
        perform public.store_result(v_run, p_result, p_files);
    end if;
    delete from public.user_credentials
    where id = v_run.git_credential_id and p_error_code is distinct from 'internal';
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return true;
end $$;

revoke all on function
    public.store_result(public.runs, jsonb, jsonb),
    public.save_checkpoint(uuid, integer, jsonb, jsonb)
    from public, anon, authenticated;
grant execute on function
    public.store_result(public.runs, jsonb, jsonb),
    public.save_checkpoint(uuid, integer, jsonb, jsonb)
    to service_role;
